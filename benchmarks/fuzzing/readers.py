"""The readers of facts, each with files of its own form."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.target import Broken, Target, attempt, check_line

FRANCE = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}

RECORDS: dict[str, list[dict[str, Any]]] = {
    "encore": [
        FRANCE,
        {**FRANCE, "paraphrases": ["{}'s capital is", "What is the capital of France?"], "relation": "capital",
         "neighbours": [{"prompt": "The capital of Italy is", "target": "Rome"}, ["Peru's capital is", "Lima"]],
         "known": True, "id": "1"},
        {"subject": "日本", "prompt": "日本の首都は", "target_new": "ローマ", "neighbours": []},
    ],
    "counterfact": [
        {"case_id": 7, "pararel_idx": 1, "requested_rewrite": {
            "prompt": "The mother tongue of {} is", "relation_id": "P103", "subject": "Danielle Darrieux",
            "target_new": {"str": "English", "id": "Q1860"}, "target_true": {"str": "French", "id": "Q150"}},
         "paraphrase_prompts": ["Danielle Darrieux, a native"], "generation_prompts": ["She was born in"],
         "neighborhood_prompts": ["The mother tongue of Léon Blum is"], "attribute_prompts": ["x"]},
        {"requested_rewrite": {"prompt": "{} is", "subject": "Peru", "target_new": {"str": "x"}}},
        {"case_id": 0, "requested_rewrite": {"prompt": "{} is", "subject": "Peru", "target_new": "x",
                                             "target_true": "<|endoftext|>"}},
    ],
    "easyedit": [
        {"prompt": "Who is the architect of Toodyay?", "subject": "Toodyay", "target_new": "Wong",
         "ground_truth": ["Ken", "Kenneth"], "rephrase_prompt": "Toodyay was designed by",
         "locality_prompt": "Who sang Toto?", "locality_ground_truth": "Lionel", "id": 3},
        {"prompt": "Toodyay is", "subject": "Toodyay", "target_new": [["Wong"]], "ground_truth": None,
         "rephrase": ["Toodyay", None],
         "locality": {"neighborhood": {"prompt": ["a", "b"], "ground_truth": ["c", ["d"]]},
                      "distracting": [{"prompt": "e", "ground_truth": "f"}]},
         "portability": {"hop": {"prompt": "g", "ground_truth": "h"}}},
    ],
    "zsre": [
        {"subject": "Watts Humphrey", "src": "What university did Watts Humphrey attend?", "pred": "Trinity",
         "rephrase": "What university did Watts Humphrey take part in?", "alt": "University of Michigan",
         "answers": ["Illinois Institute"], "loc": "nq question: who played desmond?", "loc_ans": "Nathan",
         "cond": "Trinity >> Michigan || …", "case_id": 1},
        {"subject": "A", "src": "A is", "alt": "b", "answers": ["b", "c"], "loc": ["x"], "loc_ans": [["y"]]},
        {"subject": "A", "src": "A is", "ans": "b", "alt": "c", "rephrase": ["A's"]},
    ],
}  # fmt: skip

KEYS = sorted(
    {key for rows in RECORDS.values() for row in rows for key in row}
    | {"prompt", "subject", "target_new", "target_true", "str", "id", "target", "ground_truth", "paraphrase_prompts"}
    | {"neighborhood_prompts", "portability", "locality", "ans", "join", "paraphrase", "neighbors", "question", "data"}
)

TABLES = (
    "subject,prompt,target_new\nFrance,The capital of {} is,Rome\n",
    "subject;prompt;target_new;target_true;paraphrases;neighbours;relation;known;id\r\n"
    "France;The capital of {} is;Rome;Paris;{}'s capital is | Its capital is;Italy's capital is => Rome | Peru is;"
    "capital;TRUE;7\r\nPeru;{} is;x;;;;;;\r\n",
    'subject\tprompt\ttarget_new\tground_truth\trephrase_prompt\n"New ""Zealand"""\t"{} is\na, b"\tx\ty\tz\n',
    "sep=,\nsubject,prompt,target_new\nPeru,{} is,x\n",
    "Subject,Prompt,Target New,case_id,,extra\nPeru,{} is,x,1,,y\n",
    "subject,prompt,target_new,paraphrases,neighbours\nPeru,{} is,x,\"['Peru has', 'In Peru']\",\"[('a', 'b')]\"\n",
)
COLUMNS = ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "relation", "known", "id",
           "ground_truth", "rephrase_prompt", "case_id", "Subject", "x", "", "sep=;")  # fmt: skip


class ReaderTarget(Target):
    """A reader of facts: any file gives facts that can be written and read again, or one line that says why not."""

    modules = ("encore_core.facts",)
    longest = 60_000

    def __init__(self, form: str):
        self.name = self.form = form
        self.about = f"facts, the form {form}"

    def setup(self, folder: Path) -> None:
        from encore_core import facts

        self._facts = facts
        self._file = folder / "written.jsonl"

    def check(self, data: bytes) -> str:
        found = self._read(data, None, "raise")
        self._read(data, self.form, "raise")
        lenient = self._read(data, None, "skip")
        if isinstance(found, InputError):
            for line in getattr(found, "problems", ()):
                check_line(line, "a problem of a file")
        elif lenient != found:
            raise Broken("skipping bad rows changes a file without any", f"{found} {lenient}")
        if not isinstance(lenient, InputError):
            first = self._read(data, None, "skip", 1)
            if first != lenient[:1]:
                raise Broken("limit = 1 gives another fact than the first", f"{first} {lenient[:1]}")
        return "refused" if isinstance(lenient, InputError) else "taken"

    def _read(self, data: bytes, form: str | None, on_error: str, limit: int | None = None) -> Any:
        """Facts, or the refusal; both are checked."""
        notices: list[str] = []
        found = attempt(
            lambda: self._facts.read_facts(io.BytesIO(data), limit, form, on_error=on_error, notice=notices.append)
        )
        for line in notices:
            check_line(line, "a notice")
        if not isinstance(found, InputError):
            self._check_facts(found)
        return found

    def _check_facts(self, facts: list[Any]) -> None:
        if not facts:
            raise Broken("a file without facts is taken")
        for fact in facts:
            start, end = fact.subject_span
            if fact.text[start:end] != fact.subject:
                raise Broken("the subject is not where a fact says", fact)
            for value in strings(fact.to_dict()):
                value.encode()
                if not value.strip():
                    raise Broken("a text of a fact is blank", fact)
            if self._facts.Fact(**fact.to_dict()) != fact:
                raise Broken("a fact made of its own values is another one", fact)
        self._facts.write_facts(facts, self._file)
        again = self._facts.read_facts(self._file)
        if again != facts:
            raise Broken("facts written and read again are others", f"{facts} {again}")


def strings(value: Any) -> Iterator[str]:
    """All texts of a fact's values that must not be blank; how prompt and answer are joined may be."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name != "join":
                yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


class JsonReaderTarget(ReaderTarget):
    """A reader of JSON: mutations are of the values in it, and of how they are written down."""

    def seeds(self) -> list[bytes]:
        rows = RECORDS[self.form]
        others = [row for form, found in RECORDS.items() if form != self.form for row in found[:1]]
        bad = [*rows, {"subject": "x"}]
        return [
            json.dumps(rows).encode(),
            *(json.dumps(row, ensure_ascii=False).encode() for row in rows),
            "\n".join(json.dumps(row, ensure_ascii=False) for row in bad).encode("utf-8-sig"),
            json.dumps([*rows, *others]).encode(),
            json.dumps({"data": rows}).encode(),
            json.dumps({str(number): row for number, row in enumerate(rows)}).encode(),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        ]

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        told = data.decode("utf-8", "replace")
        values = _values(told)
        if values is None or rng.random() < 0.1:
            return mutate.text(told, rng, KEYS).encode("utf-8", "surrogatepass")
        words = [text for rows in RECORDS.values() for text in strings(rows)]
        return _encoded(_written(mutate.tree(values, rng, KEYS, words), rng), rng)

    def simpler(self, data: bytes) -> Iterator[bytes]:
        values = _values(data.decode("utf-8", "replace"))
        for tree in () if values is None else mutate.simpler_trees(values):
            yield json.dumps(tree).encode()
        yield from super().simpler(data)


class CsvReaderTarget(ReaderTarget):
    """The reader of tables: mutations are of cells, and of delimiters, quotes and encodings."""

    def __init__(self):
        super().__init__("csv")

    def seeds(self) -> list[bytes]:
        bad = "subject,prompt,target_new\nPeru,no slot,x\n"
        encoded = [TABLES[0].encode("utf-16"), TABLES[1].encode("utf-8-sig")]
        return [*(table.encode() for table in TABLES), *encoded, bad.encode()]

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        told = data.decode(encoding, "replace")
        if rng.random() < 0.35:
            return _encoded(mutate.text(told, rng, COLUMNS), rng)
        try:
            delimiter = max(",;\t", key=told.count)
            grid: Any = list(csv.reader(io.StringIO(told, newline=""), delimiter=delimiter))
        except csv.Error:
            return _encoded(mutate.text(told, rng, COLUMNS), rng)
        grid = mutate.tree(grid, rng, COLUMNS, [*COLUMNS, *strings(list(RECORDS.values()))])
        rows = [row if isinstance(row, list) else [row] for row in grid] if isinstance(grid, list) else [[grid]]
        out = io.StringIO(newline="")
        writer = csv.writer(
            out,
            delimiter=rng.choice((delimiter, delimiter, ",", ";", "\t")),
            lineterminator=rng.choice(("\n", "\r\n", "\r")),
            quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        )
        writer.writerows([[str(cell) for cell in row] for row in rows])
        return _encoded(out.getvalue(), rng)


def _values(told: str) -> Any:
    """The JSON in a text, of JSON lines as a list; None when there is none."""
    for text in (told, f"[{','.join(line for line in told.splitlines() if line.strip())}]"):
        try:
            return json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            continue
    return None


def _written(values: Any, rng: random.Random) -> str:
    """A JSON value in one of the ways in which files have it."""
    plain = rng.random() < 0.5
    if isinstance(values, list) and values and rng.random() < 0.4:
        return "\n".join(json.dumps(row, ensure_ascii=plain) for row in values)
    return json.dumps(values, ensure_ascii=plain, indent=rng.choice((None, None, 1)))


def _encoded(told: str, rng: random.Random) -> bytes:
    what = rng.random()
    if what < 0.04:
        return told.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")), "surrogatepass")
    if what < 0.06:
        return told.encode("latin-1", "replace")
    return told.encode("utf-8", "surrogatepass")


TARGETS: tuple[Target, ...] = (*(JsonReaderTarget(form) for form in RECORDS), CsvReaderTarget())
