"""Facts: what an edit is to teach, how facts are read from files, and the bundled set.

A fact is a subject, a prompt with one slot `{}` for it, and the answer wanted after the prompt. Around it
stand the answer that the model gives now, paraphrases (which should change too) and neighbours (which should
not). Everything here is text: no tokenizer, no tensor. Five forms are read, told apart by their content:

=============  ==============================================================================================
counterfact    CounterFact's own JSON: `requested_rewrite`, `paraphrase_prompts`, `neighborhood_prompts`
easyedit       flat EasyEdit records: `prompt`, `target_new`, `ground_truth`, `rephrase_prompt`, ...
zsre           zsRE records: `src`, `subject`, `alt`, `answers`, `rephrase`, `loc`, `loc_ans`
encore         our own records: the fields of `Fact`; what `write_facts` writes
csv            columns `subject`, `prompt`, `target_new` and optional others; `,` `;` or tab
=============  ==============================================================================================

The first four may be a JSON array or JSON lines. Every refusal is a `FactError` of one line that names
the field, the value and what would be right.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from encore_core.errors import InputError, quoted
from encore_core.storage import replacing

__all__ = [
    "BUNDLED",
    "FORMATS",
    "MAX_BYTES",
    "Fact",
    "FactError",
    "Neighbour",
    "check_batch",
    "duplicate_subjects",
    "parse_facts",
    "read_facts",
    "write_facts",
]

SLOT = "{}"
MAX_BYTES = 20 * 1000 * 1000
BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "facts" / "bundled.jsonl"
FORMATS = ("counterfact", "easyedit", "zsre", "encore", "csv")

_LISTED = 5  # bad rows spelt out in a message; the others only by number


class FactError(InputError):
    """A fact, a batch or a file of facts that cannot be used.

    Attributes:
        problems: one message for each bad row of a file, `"line 3: target_new '' is blank ..."`; empty
            where the message is about one fact or about the file as a whole.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()):
        super().__init__(message)
        self.problems = tuple(problems)


# ------------------------------------------------------------------------------------------------ the types


@dataclass(frozen=True)
class Neighbour:
    """A prompt about another subject, and the answer that has to survive the edit.

    Args:
        prompt: the full text of the prompt.
        target: the answer that stays right, to be continued with a space between.

    Raises:
        FactError: when either is no text or blank.
    """

    prompt: str
    target: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _required("neighbours: prompt", self.prompt))
        object.__setattr__(self, "target", _required("neighbours: target", self.target))


@dataclass(frozen=True)
class Fact:
    """One edit: after `prompt` with `subject` in its slot, the model is to say `target_new`.

    Whitespace around every text is dropped, because targets are joined to prompts by one space.

    Args:
        subject: what the fact is about; its last token is where the edit is made.
        prompt: text with one slot `{}`, or the full text with the subject in it exactly once (which is then
            made the slot). Other braces mean nothing special.
        target_new: the answer wanted.
        target_true: the answer before the edit; None where unknown.
        paraphrases: other full prompts for the same fact; a slot `{}` in one is filled with the subject.
        neighbours: `Neighbour`, `(prompt, target)`, `{"prompt": ..., "target": ...}`, or a prompt
            alone, whose answer is then `target_true`.
        relation: a name shared by facts of one kind.
        known: whether the embedded model answers `target_true` to begin with; None where not tried.
        id: the fact's name in the file that it came from.

    Raises:
        FactError: naming the field, its value and what would be right.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    relation: str | None = None
    known: bool | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen once this returns
        put(self, "subject", _required("subject", self.subject))
        put(self, "prompt", _with_slot(_required("prompt", self.prompt), self.subject))
        put(self, "target_new", _required("target_new", self.target_new))
        for name in ("target_true", "relation", "id"):
            put(self, name, _optional(name, getattr(self, name)))
        if self.target_true == self.target_new:
            raise FactError(
                f"target_new {quoted(self.target_new)} is the same as target_true: "
                "give an answer that the fact does not have yet"
            )
        if self.known is not None and not isinstance(self.known, bool):
            raise FactError(f"known {quoted(self.known)} must be true, false or left out")
        put(self, "paraphrases", tuple(self._paraphrase(p) for p in _listed("paraphrases", self.paraphrases)))
        put(self, "neighbours", tuple(self._neighbour(n) for n in _listed("neighbours", self.neighbours)))

    def _paraphrase(self, value: Any) -> str:
        text = _required("paraphrases", value)
        if text.count(SLOT) == 1 and self.subject not in text:
            return _fill(text, self.subject)
        return text

    def _neighbour(self, value: Any) -> Neighbour:
        if isinstance(value, Neighbour):
            return value
        if isinstance(value, str):
            if self.target_true is None:
                raise FactError(
                    f"neighbours: {quoted(value)} has no answer of its own and target_true is missing: "
                    "give target_true, or the neighbour as a pair of prompt and answer"
                )
            return Neighbour(value, self.target_true)
        if isinstance(value, Mapping) and "prompt" in value and "target" in value:
            return Neighbour(value["prompt"], value["target"])
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return Neighbour(*value)
        raise FactError(
            f"neighbours: {quoted(value)} is not a neighbour: "
            'give {"prompt": ..., "target": ...}, a pair of prompt and answer, or a prompt'
        )

    @property
    def text(self) -> str:
        """The prompt with the subject in its slot."""
        return _fill(self.prompt, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Start and end (exclusive) of the subject in `text`, in characters."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)

    @property
    def key(self) -> tuple[str, str]:
        """`(subject, prompt)`: what the fact is about, whatever its answer."""
        return self.subject, self.prompt

    @property
    def asked(self) -> str:
        """The text, capitals and spacing aside: what the facts of one batch can answer only once."""
        return _folded(self.text)

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain JSON values, fields that are empty left out.

        Returns:
            a dictionary that `Fact(**d)` turns back into an equal fact.
        """
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        row["paraphrases"] = list(self.paraphrases)
        row["neighbours"] = [{"prompt": n.prompt, "target": n.target} for n in self.neighbours]
        return {name: value for name, value in row.items() if value is not None and value != []}


def _with_slot(prompt: str, subject: str) -> str:
    """The prompt with exactly one slot, put in place of the subject where there is none yet."""
    found = _places(prompt, subject)
    inside = {at + i for at in found for i in range(len(subject))} if SLOT in subject else set()
    # a subject such as "f{}" brings braces of its own, which are no slot
    slots = [at for at in _places(prompt, SLOT) if at not in inside]
    shown = f"prompt {quoted(prompt)}"
    if len(slots) > 1 or (slots and inside):
        raise FactError(f"{shown} has the slot {SLOT} {prompt.count(SLOT)} times: put it in once, for the subject")
    if slots:
        return prompt
    if len(found) == 1:
        made = prompt[: found[0]] + SLOT + prompt[found[0] + len(subject) :]
        if made != prompt and SLOT in subject and subject in made:
            raise FactError(
                f"{shown} has braces next to the subject {quoted(subject)} that read as the subject again: "
                "put something between them"
            )
        return made
    if found:
        raise FactError(
            f"{shown} has the subject {quoted(subject)} {len(found)} times: "
            f"write {SLOT} where the subject stands, e.g. {quoted(prompt.replace(subject, SLOT, 1))}"
        )
    hint = ""
    if _folded(subject) in _folded(prompt):
        hint = " (it is there in another spelling: capitals, spaces or accents)"
    raise FactError(
        f"{shown} does not contain the subject {quoted(subject)}{hint}: "
        f"write the subject exactly as in the prompt, or {SLOT} where it belongs"
    )


def _places(text: str, part: str) -> list[int]:
    """Where `part` begins in `text`, overlapping occurrences included."""
    places = []
    at = text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places


def _fill(text: str, subject: str) -> str:
    """`text` with its slot replaced; by slicing, as `str.format` would trip over other braces."""
    start = text.index(SLOT)
    return text[:start] + subject + text[start + len(SLOT) :]


def _required(name: str, value: Any) -> str:
    """A text that must not be blank, without the whitespace around it."""
    if value is None:
        raise FactError(f"{name} is missing: give a text")
    if not isinstance(value, str):
        raise FactError(f"{name} {quoted(value)} is {_kind(value)}: give a text, in quotes")
    if _blank(value):
        raise FactError(f"{name} {quoted(value)} is blank: give a text with at least one visible character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FactError(
            f"{name} {quoted(value)} holds half a character (a lone surrogate): give valid Unicode"
        ) from error
    return value.strip()


def _optional(name: str, value: Any) -> str | None:
    """Like `_required`, but nothing and blank both mean that there is none."""
    if value is None or (isinstance(value, str) and _blank(value)):
        return None
    return _required(name, value)


def _listed(name: str, value: Any) -> Sequence[Any]:
    """A list as it is, a single value as a list of one, None as an empty list."""
    if value is None:
        return ()
    if isinstance(value, (str, Mapping, Neighbour)):
        return (value,)
    if isinstance(value, (list, tuple)):
        return value
    raise FactError(f"{name} {quoted(value)} is {_kind(value)}: give a list")


def _blank(text: str) -> bool:
    """True for text of spaces, controls and invisible marks only."""
    return all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text)


def _folded(text: str) -> str:
    """The text for comparisons that overlook capitals, composition and the width of gaps."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _kind(value: Any) -> str:
    """What a value is, in the words of somebody who writes JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------- whole sets of facts


def check_batch(facts: Iterable[Fact]) -> tuple[list[Fact], list[str]]:
    """Drop exact repetitions from a batch and refuse contradictions in it.

    Facts of one batch are solved for together, so a prompt cannot be given two answers. In different batches
    it can: the later edit is a new one.

    Args:
        facts: the facts of one batch.

    Returns:
        the facts to edit, in order, and one line for each repetition that was dropped.

    Raises:
        FactError: when the same text, capitals and spacing aside, is to have two answers.
    """
    kept: list[Fact] = []
    notices: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    wanted: dict[str, tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, start=1):
        if (*fact.key, fact.target_new) in seen:
            notices.append(
                f"fact {number} dropped: {quoted(fact.text)} → {quoted(fact.target_new)} is in the batch already"
            )
            continue
        first, other = wanted.setdefault(fact.asked, (number, fact))
        if other.target_new != fact.target_new:
            raise FactError(
                f"facts {first} and {number} contradict each other: {quoted(fact.text)} is to become "
                f"{quoted(other.target_new)} and {quoted(fact.target_new)}: keep one, or edit them in two batches"
            )
        seen.add((*fact.key, fact.target_new))
        kept.append(fact)
    return kept, notices


def duplicate_subjects(facts: Iterable[Fact]) -> dict[tuple[str, str], list[int]]:
    """Where a set edits the same thing more than once, so that later edits overwrite earlier ones.

    Args:
        facts: facts in the order of editing.

    Returns:
        for each repeated pair of subject and relation (the prompt where a fact names no relation), the
        positions of its facts, counted from 0.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, fact in enumerate(facts):
        places[fact.subject, fact.relation or fact.prompt].append(position)
    return {pair: found for pair, found in places.items() if len(found) > 1}


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Write facts as JSON lines in our own form. The file is replaced as a whole or not at all.

    Args:
        facts: what to write.
        path: the file; its folder must exist.

    Raises:
        FactError: when the file cannot be written.
    """
    path = Path(path)
    lines = "".join(json.dumps(fact.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n" for fact in facts)
    try:
        with replacing(path) as part:
            part.write_text(lines, encoding="utf-8", newline="\n")
    except OSError as error:
        raise FactError(f"{_name(path)}: cannot be written ({error.strerror}): choose another place") from error


# --------------------------------------------------------------------------------------------------- reading


def read_facts(
    source: str | Path | IO[str] | IO[bytes],
    limit: int | None = None,
    format: str | None = None,
    *,
    on_error: str = "raise",
    notice: Callable[[str], None] | None = None,
) -> list[Fact]:
    """Read facts from a file, an open stream or the bundled set.

    Args:
        source: a path; `"bundled"` for the bundled set (write `./bundled` for a file of that name); or an
            open stream of text or bytes, such as an upload.
        limit: stop after so many facts; rows behind them are not looked at. None for all.
        format: one of `FORMATS`; None to tell from the content.
        on_error: what a row that is no usable fact does: `"raise"`, or `"skip"` to go on without it.
        notice: called with one line for each row skipped and for keys or columns that are not understood.

    Returns:
        the facts in the file's order, never none.

    Raises:
        FactError: when the source cannot be read, is too large, is of no known form, or holds bad rows
            (listed in the message and in `FactError.problems`) or no fact at all.
    """
    if isinstance(source, str) and source == "bundled":
        source = BUNDLED
    if isinstance(source, (str, Path)):
        name, data = _name(source), _read_path(Path(source))
    elif hasattr(source, "read"):
        name = _name(getattr(source, "name", None) or "the upload")
        data = _read_stream(source, name)
    else:
        raise FactError(f"facts cannot be read from {quoted(source)}: give a path, 'bundled' or an open file")
    if isinstance(data, bytes):
        _check_size(name, len(data), at_least=True)
        data = _decode(name, data)
    return parse_facts(data, name, limit, format, on_error=on_error, notice=notice)


def parse_facts(
    text: str,
    name: str = "pasted",
    limit: int | None = None,
    format: str | None = None,
    *,
    on_error: str = "raise",
    notice: Callable[[str], None] | None = None,
) -> list[Fact]:
    """Read facts from text in any of the forms of `read_facts`.

    Args:
        text: the content of a file.
        name: what to call it in messages; `.json` and `.jsonl` at its end mean JSON.
        limit, format, on_error, notice: as in `read_facts`.

    Returns:
        the facts in order, never none.

    Raises:
        FactError: as `read_facts`.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise FactError(f"limit {quoted(limit)} must be a whole number of at least 1, or left out")
    if format is not None and format not in FORMATS:
        raise FactError(f"format {quoted(format)} is unknown: choose one of {', '.join(FORMATS)}")
    if on_error not in ("raise", "skip"):
        raise FactError(f"on_error {quoted(on_error)} is unknown: choose 'raise' or 'skip'")
    _check_size(name, len(text.encode("utf-8", "surrogatepass")))
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise FactError(f"{name}: the file is empty: give at least one fact")

    told: set[str] = set()

    def tell(line: str) -> None:
        if notice and line not in told:  # an unknown key is mentioned once, not once a row
            told.add(line)
            notice(f"{name}: {line}")

    if format == "csv" or (format is None and not _is_json(text, name)):
        rows = _csv_rows(text, name, tell)
    else:
        rows = _json_rows(text, name)

    facts: list[Fact] = []
    problems: list[str] = []
    for where, row in rows:
        if len(facts) == limit:
            break
        try:
            if isinstance(row, FactError):
                raise row
            facts.append(_to_fact(row, format, tell))
        except FactError as error:
            problems.append(f"{where}: {error}")
            if on_error == "skip":
                tell(f"{where} skipped: {error}")
    if problems and on_error == "raise":
        raise FactError(_summary(name, problems, len(facts) + len(problems)), problems)
    if not facts:
        why = f" ({len(problems)} rows skipped, the first: {problems[0]})" if problems else ""
        raise FactError(f"{name}: there is no fact in it{why}: give at least one")
    return facts


def _summary(name: str, problems: Sequence[str], rows: int) -> str:
    """One line for all the bad rows of a file: the first spelt out, the rest by number."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    shown = "; ".join(problems[:_LISTED])
    rest = [p.split(":", 1)[0] for p in problems[_LISTED:]]
    if rest:
        more = ", ".join(rest[:20]) + (", …" if len(rest) > 20 else "")
        shown += f"; and {len(rest)} more ({more})"
    return f"{name}: {len(problems)} of {rows} rows cannot be used: {shown}"


def _name(path: Any) -> str:
    """A file's name for messages, on one line whatever is in it."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 200 else quoted(text)


def _read_path(path: Path) -> bytes:
    """The bytes of a file, looked at for its size before it is read."""
    name = _name(path)
    try:
        if path.is_dir():
            raise FactError(f"{name}: is a folder: give a file of facts (.json, .jsonl or .csv)")
        _check_size(name, path.stat().st_size)
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)  # a pipe has no size beforehand, and a file may grow
    except FileNotFoundError as error:
        raise FactError(f"{name}: there is no such file: check the path, or use 'bundled'") from error
    except (OSError, ValueError) as error:
        if isinstance(error, FactError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FactError(f"{name}: cannot be read ({reason}): give a readable file") from error


def _read_stream(source: IO[str] | IO[bytes], name: str) -> str | bytes:
    """The content of an open stream; an upload knows its size before it is read."""
    size = getattr(source, "size", None)
    if isinstance(size, int):
        _check_size(name, size)
    try:
        return source.read(MAX_BYTES + 1)
    except UnicodeDecodeError as error:
        raise FactError(f"{name}: is not UTF-8 text: open it with encoding='utf-8', or as bytes") from error
    except OSError as error:
        raise FactError(f"{name}: cannot be read ({error.strerror or error}): give a readable file") from error


def _check_size(name: str, size: int, at_least: bool = False) -> None:
    if size > MAX_BYTES:
        more = "more than " if at_least else ""
        size_mb = MAX_BYTES / 1e6 if at_least else size / 1e6
        raise FactError(
            f"{name}: the file has {more}{size_mb:.1f} MB and the limit is {MAX_BYTES / 1e6:.0f} MB: "
            "split it into smaller files"
        )


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactError(
            f"{name}: is not UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start}): "
            "save it with the encoding UTF-8"
        ) from error


# ------------------------------------------------------------------------------- rows: JSON, JSON lines, CSV

Row = tuple[str, Any]  # where it stands, and a record or the FactError that came of it


def _is_json(text: str, name: str) -> bool:
    return text.lstrip()[0] in "[{" or name.lower().endswith((".json", ".jsonl"))


def _json_rows(text: str, name: str) -> Iterable[Row]:
    """The records of a JSON array, of JSON lines, or of a single JSON object."""
    lines = text.split("\n")  # not splitlines(): U+2028 and others may stand inside a JSON string
    filled = [line for line in lines if line.strip()]
    if len(filled) > 1 and filled[0].lstrip()[0] == "{" and isinstance(_parsed(filled[0]), dict):
        return _json_lines(lines)
    whole = _parsed(text)
    if isinstance(whole, FactError):
        raise FactError(f"{name}: {whole}")
    if isinstance(whole, dict) and _record_format(whole):
        whole = [whole]
    if not isinstance(whole, list):
        raise FactError(
            f"{name}: holds {_kind(whole)} ({quoted(whole)}), not a list of facts: give a JSON array of objects, "
            "or one object a line"
        )
    return [(f"record {number}", record) for number, record in enumerate(whole, start=1)]


def _json_lines(lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _parsed(line, one_line=True)


def _parsed(text: str, one_line: bool = False) -> Any:
    """The JSON value of a text, or the FactError that says where it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno}, column {error.colno}"
        return FactError(
            f"malformed JSON at {place} ({error.msg}), "
            f"near {quoted(error.doc[max(0, error.pos - 20) : error.pos + 20])}: correct it there"
        )
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets nested as deep
        return FactError(f"malformed JSON ({error}): give a list of plain objects")


_CSV_REQUIRED = ("subject", "prompt", "target_new")
_CSV_COLUMNS = (*_CSV_REQUIRED, "target_true", "paraphrases", "neighbours", "relation", "known", "id")
_CSV_ALIASES = {
    "ground_truth": "target_true",
    "paraphrase": "paraphrases",
    "rephrase_prompt": "paraphrases",
    "neighbour": "neighbours",
    "neighbor": "neighbours",
    "neighbors": "neighbours",
    "relation_id": "relation",
    "case_id": "id",
}


def _csv_rows(text: str, name: str, tell: Callable[[str], None]) -> Iterator[Row]:
    """The rows of a table as records of our own form.

    Several paraphrases or neighbours stand in one cell with ` | ` between them; a neighbour is a prompt
    (whose answer is target_true) or `prompt => answer`.
    """
    delimiter = _delimiter(text)
    # newline="" and strict: line breaks inside quotes are kept, and an unclosed quote is an error
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [_column(cell) for cell in next(filter(_filled, table), [])]
    except csv.Error as error:
        raise FactError(f"{name}: malformed CSV in the header ({error}): close every quote") from error
    missing = [column for column in _CSV_REQUIRED if column not in header]
    if missing:
        raise FactError(
            f"{name}: CSV columns missing: {', '.join(missing)}; found: {quoted(', '.join(header))}: the first line "
            "must name subject, prompt and target_new (or give JSON)"
        )
    twice = sorted(column for column, count in Counter(header).items() if column and count > 1)
    if twice:
        raise FactError(f"{name}: CSV columns there twice: {_named(twice)}: keep one of each")
    unknown = [column for column in header if column not in _CSV_COLUMNS]
    if unknown:
        tell(f"columns ignored: {_named(unknown)}")

    while True:
        where = f"line {table.line_num + 1}"
        try:
            cells = next(table, None)
        except csv.Error as error:
            # where a quote went wrong, the rows behind it cannot be told apart any more
            yield where, FactError(f"malformed CSV ({error}): close every quote, and double those inside one")
            return
        if cells is None:
            return
        if not _filled(cells):
            continue
        if len(cells) > len(header):
            yield (
                where,
                FactError(
                    f"{len(cells)} values for {len(header)} columns: put quotes around values with a {delimiter!r}"
                ),
            )
            continue
        yield where, _csv_record(dict(zip(header, cells, strict=False)))


def _named(names: Sequence[str]) -> str:
    """Names in a message; of many, the first ones."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{', '.join(map(quoted, names[:_LISTED]))}{more}"


def _filled(cells: Sequence[str]) -> bool:
    return any(cell.strip() for cell in cells)


def _csv_record(cells: Mapping[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {column: cells[column] for column in _CSV_COLUMNS if cells.get(column, "").strip()}
    for column in _CSV_REQUIRED:
        record.setdefault(column, cells.get(column))  # "" is reported as blank, not as missing
    if "paraphrases" in record:
        record["paraphrases"] = _cell_values(record["paraphrases"])
    if "neighbours" in record:
        pairs = [value.rpartition(" => ") for value in _cell_values(record["neighbours"])]
        record["neighbours"] = [(prompt, answer) if prompt else answer for prompt, _, answer in pairs]
    if "known" in record:
        record["known"] = {"true": True, "false": False}.get(record["known"].strip().lower(), record["known"])
    return record


def _cell_values(cell: str) -> list[str]:
    return [value for value in re.split(r"\s\|\s", cell) if value.strip()]


def _column(cell: str) -> str:
    name = cell.strip().lower().replace(" ", "_")
    return _CSV_ALIASES.get(name, name)


def _delimiter(text: str) -> str:
    """The delimiter that finds most of our columns in the first line; a comma when none finds any."""
    header = text.lstrip().split("\n", 1)[0]

    def columns_found(delimiter: str) -> int:
        return sum(_column(cell.strip(' "\r')) in _CSV_COLUMNS for cell in header.split(delimiter))

    return max(",;\t", key=columns_found)


# ------------------------------------------------------------------------------- one function for each form


def _to_fact(record: Any, format: str | None, tell: Callable[[str], None]) -> Fact:
    """A record of a file as a fact."""
    if not isinstance(record, Mapping):
        raise FactError(f"{quoted(record)} is {_kind(record)}: give an object with subject, prompt and target_new")
    found = format if format in _CONVERTERS else _record_format(record)
    if found is None:
        keys = ", ".join(map(str, record)) or "none"
        raise FactError(
            f"no known form (keys: {quoted(keys)}): give subject, prompt and target_new, "
            "or a record of CounterFact, EasyEdit or zsRE"
        )
    if found == "encore":
        unknown = [key for key in record if key not in _FACT_FIELDS]
        if unknown:
            tell(f"keys ignored: {_named(unknown)}")
    return _CONVERTERS[found](record)


_FACT_FIELDS = tuple(field.name for field in fields(Fact))
_EASYEDIT_KEYS = {"ground_truth", "rephrase_prompt", "rephrase", "locality_prompt", "locality", "portability"}


def _record_format(record: Mapping[str, Any]) -> str | None:
    """Which of the JSON forms a record has; None for none of them."""
    if "requested_rewrite" in record:
        return "counterfact"
    if "src" in record:
        return "zsre"
    if "prompt" in record and _EASYEDIT_KEYS & set(record):
        return "easyedit"
    if {"subject", "prompt", "target_new"} & set(record):
        return "encore"
    return None


def _from_encore(record: Mapping[str, Any]) -> Fact:
    """Our own form: the fields of `Fact`."""
    known = {name: record.get(name) for name in _FACT_FIELDS if name in record}
    return Fact(**{"subject": None, "prompt": None, "target_new": None, **known, "id": _id(record.get("id"))})


def _from_counterfact(record: Mapping[str, Any]) -> Fact:
    """CounterFact's own form: prompts carry the slot, answers are objects with `str`."""
    rewrite = record["requested_rewrite"]
    if not isinstance(rewrite, Mapping):
        raise FactError(f"requested_rewrite {quoted(rewrite)} is {_kind(rewrite)}: give an object with a prompt")

    def answer(name: str) -> Any:
        value = rewrite.get(name)
        return value.get("str") if isinstance(value, Mapping) else value

    return Fact(
        subject=rewrite.get("subject"),
        prompt=rewrite.get("prompt"),
        target_new=answer("target_new"),
        target_true=answer("target_true"),
        paraphrases=record.get("paraphrase_prompts"),
        neighbours=record.get("neighborhood_prompts"),
        relation=rewrite.get("relation_id"),
        id=_id(record.get("case_id")),
    )


def _from_easyedit(record: Mapping[str, Any]) -> Fact:
    """EasyEdit's flat form; the paraphrases and the locality come as texts, lists or nested objects."""
    truth = _texts(record.get("ground_truth"))
    rephrase = record.get("rephrase_prompt", record.get("rephrase"))
    return Fact(
        subject=record.get("subject"),
        prompt=record.get("prompt"),
        target_new=_first(record.get("target_new")),
        target_true=truth[0] if truth else None,
        paraphrases=_texts(rephrase),
        neighbours=_locality(record),
        relation=record.get("relation_id", record.get("relation")),
        id=_id(record.get("case_id", record.get("id"))),
    )


def _from_zsre(record: Mapping[str, Any]) -> Fact:
    """zsRE: `alt` is the new answer; the true one is the first gold answer that differs from it.

    `pred`, which some model said, stands in where `alt` is the gold answer itself.
    """
    new = record.get("alt")
    candidates = [*_texts(record.get("answers")), *_texts(record.get("pred"))]
    wanted = new.strip() if isinstance(new, str) else new
    return Fact(
        subject=record.get("subject"),
        prompt=record["src"],
        target_new=new,
        target_true=next((a for a in candidates if not isinstance(a, str) or a.strip() != wanted), None),
        paraphrases=_texts(record.get("rephrase")),
        neighbours=_paired(record.get("loc"), record.get("loc_ans")),
        id=_id(record.get("case_id", record.get("id"))),
    )


_CONVERTERS: dict[str, Callable[[Mapping[str, Any]], Fact]] = {
    "counterfact": _from_counterfact,
    "easyedit": _from_easyedit,
    "zsre": _from_zsre,
    "encore": _from_encore,
}


def _locality(record: Mapping[str, Any]) -> list[Any]:
    """EasyEdit's neighbours: flat keys, and `locality` with `{name: {prompt, ground_truth}}` or lists."""
    found = _paired(record.get("locality_prompt"), record.get("locality_ground_truth"))
    locality = record.get("locality") or {}
    if not isinstance(locality, Mapping):
        raise FactError(f"locality {quoted(locality)} is {_kind(locality)}: give an object of prompts and answers")
    for group in locality.values():
        for entry in group if isinstance(group, list) else [group]:
            if not isinstance(entry, Mapping):
                raise FactError(f"locality: {quoted(entry)} is {_kind(entry)}: give prompt and ground_truth")
            found += _paired(entry.get("prompt"), entry.get("ground_truth"))
    return found


def _paired(prompts: Any, answers: Any) -> list[tuple[Any, Any]]:
    """Neighbours of prompts and answers, each one or a list; a single prompt takes its first answer."""
    if not isinstance(prompts, list):
        answer = _first(answers)
        return [(prompts, answer)] if _texts(prompts) else []
    if not isinstance(answers, list):
        answers = [answers] * len(prompts)
    if len(prompts) != len(answers):
        raise FactError(f"locality: {len(prompts)} prompts and {len(answers)} answers: give one answer for each")
    return [(prompt, _first(answer)) for prompt, answer in zip(prompts, answers, strict=True)]


def _texts(value: Any) -> list[Any]:
    """A value or list of values, nested or not, as a list without the blank ones."""
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    return [] if value is None or (isinstance(value, str) and _blank(value)) else [value]


def _first(value: Any) -> Any:
    """The first of a list, however deep (files give alternatives of one answer so); else the value itself."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def _id(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
