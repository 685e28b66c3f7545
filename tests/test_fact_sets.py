"""The data sets of the field, each in its own form: everything in a record is read, counted or named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from encore_core.facts import Fact, Portability, read_facts

DATA = Path(__file__).parents[2] / "shared" / "data"


def read(path: Path, **options: Any) -> tuple[list[Fact], list[str]]:
    """The facts of a file, and the notices without its name."""
    notices: list[str] = []
    facts = read_facts(path, notice=lambda line: notices.append(line.removeprefix(f"{path}: ")), **options)
    return facts, notices


def counts(facts: list[Fact]) -> dict[str, int]:
    return {
        "facts": len(facts),
        "paraphrases": sum(len(fact.paraphrases) for fact in facts),
        "neighbours": sum(len(fact.neighbours) for fact in facts),
        "portability": sum(len(fact.portability) for fact in facts),
    }


def kinds(fact: Fact) -> list[str | None]:
    return [one.kind for one in fact.portability]


@pytest.fixture
def file(tmp_path):
    """`file(records)`: a JSON file of records."""

    def made(records: Any, name: str = "facts.json") -> Path:
        (tmp_path / name).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        return tmp_path / name

    return made


CITIES = [("Norway", "Bergen", "Oslo"), ("Chad", "Moundou", "N'Djamena"), ("Peru", "Cusco", "Lima")]


# -- QAEdit ------------------------------------------------------------------------------------------------------------


def check_qaedit(path: Path, facts: list[Fact], raw: list[dict[str, Any]]) -> None:
    assert counts(facts) == {
        "facts": len(raw),
        "paraphrases": sum(bool(record["rephrase"]) for record in raw),
        "neighbours": sum(len({(one["loc"], one["loc_ans"]) for one in record["locality"]}) for record in raw),
        "portability": 0,
    }, path
    for fact, record in zip(facts, raw, strict=True):
        assert (fact.id, fact.target_new, fact.text) == (
            str(record["id"]), record["target"].strip(), record["prompt"].strip(),
        )  # fmt: skip
        assert {one.target for one in fact.neighbours} == {one["loc_ans"].strip() for one in record["locality"]}


def test_qaedit(file):
    raw = [
        {
            "id": number, "source": "NQ", "prompt": f"What is the capital of {land}?", "target": new, "subject": land,
            "rephrase": f"Which city is {land}'s capital?",
            "locality": [{"loc": f"who is {n}", "loc_ans": f"x{n}"} for n in range(5)],
        }
        for number, (land, new, _) in enumerate(CITIES)
    ]  # fmt: skip
    facts, notices = read(path := file(raw))
    check_qaedit(path, facts, raw)
    assert notices == ["keys of no use to an edit, ignored: 'source'"]


@pytest.mark.skipif(
    not (DATA / "qaedit_1k.json").is_file(), reason="the shared data are not here; files of this form are made above"
)
def test_qaedit_itself():
    path = DATA / "qaedit_1k.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    facts, notices = read(path, on_error="skip")
    skipped = [line for line in notices if " skipped: " in line]
    assert [line.split(" skipped")[0] for line in skipped] == ["record 55", "record 327", "record 728"]
    assert all("has the subject" in line for line in skipped) and len(facts) == 997
    facts, notices = read(path, subject="found")
    check_qaedit(path, facts, raw)
    assert [fact.place for fact in facts if fact.subject_found] == ["record 55", "record 327", "record 728"]
    assert "the last place is taken by a rule (3 rows, the first: record 55)" in notices[0]


# -- HalluEditBench ----------------------------------------------------------------------------------------------------

HALLU = {
    "topic": "places_city", "subject": "Lima", "relation": "country", "object": "Chile",
    "question": "In which country is Lima?", "output_llama": "Peru", "eval_llama": "0.0",
    "multiple_choices": "['Chile', 'Peru']", "paraphrased_question": "Lima lies in which country?",
    "multiple_choice_with_letters": "A. Peru  B. Chile", "multiple_choice_labels": "B",
    "yes_question": "Is Lima in Chile?", "no_question": "Is Lima in Peru?",
    "locality_question": "Which river is in Lima?", "reversed_relation_question": "Which city is in Chile?",
    "question_2hop": "Which is the currency of the country of Lima?", "answer_2hop": "Peso",
    "question_3hop": "Who prints it?", "answer_3hop": "The mint",
}  # fmt: skip
ASKED = ("reversed_relation_question", "yes_question", "no_question", "multiple_choice_with_letters")


def check_hallueditbench(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as stream:
        raw = list(csv.DictReader(stream))
    hops = [column for column in raw[0] if column.startswith("question_")]
    facts, notices = read(path)
    assert counts(facts) == {
        "facts": len(raw),
        "paraphrases": sum(bool(row["paraphrased_question"]) for row in raw),
        "neighbours": 0,
        "portability": sum(bool(row[column]) for row in raw for column in (*hops, *ASKED)),
    }
    assert [fact.target_new for fact in facts] == [row["object"].strip() for row in raw]
    n_rows = f"{len(raw):,} rows, the first: line 2" if len(raw) > 1 else "line 2"
    assert notices[0] == (f"locality_question: neighbours without an answer of their own are left out ({n_rows})")
    told = " ".join(notices)
    used = {
        "subject",
        "relation",
        "object",
        "question",
        "paraphrased_question",
        "multiple_choice_labels",
        *hops,
        *ASKED,
    }
    for column in raw[0]:
        assert (f"'{column}'" in told) == (column not in used and column[:7] != "answer_" and column[:8] != "locality")


def test_hallueditbench(tmp_path):
    path = tmp_path / "places.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(HALLU))
        table.writeheader()
        table.writerow(HALLU)
    check_hallueditbench(path)
    (fact,), _ = read(path)
    assert fact.portability == (
        Portability(HALLU["question_2hop"], ("Peso",), "two-hop"),
        Portability("Who prints it?", ("The mint",), "three-hop"),
        Portability("Which city is in Chile?", ("Lima",), "reversed"),
        Portability("Is Lima in Chile?", ("Yes",), "yes_question"),
        Portability("Is Lima in Peru?", ("No",), "no_question"),
        Portability("In which country is Lima?\nA. Peru  B. Chile\nAnswer:", ("B",), "multiple_choice_with_letters"),
    )


def test_choices_without_a_letter_are_told(file):
    record = {key: value for key, value in HALLU.items() if key != "multiple_choice_labels"}
    (fact,), notices = read(file([record]))
    assert "multiple_choice_with_letters" not in kinds(fact)
    assert "multiple_choice_with_letters: choices without a letter that is right are left out (record 1)" in notices
    record = {key: value for key, value in HALLU.items() if key != "multiple_choice_with_letters"}
    assert any("'multiple_choice_labels'" in line for line in read(file([record]))[1])


@pytest.mark.skipif(
    not (DATA / "hallueditbench").is_dir(), reason="the shared data are not here; files of this form are made above"
)
@pytest.mark.parametrize("name", ["health_symptom", "human_scientist", "places_city"])
def test_hallueditbench_itself(name):
    check_hallueditbench(DATA / "hallueditbench" / f"{name}.csv")


# -- MQuAKE ------------------------------------------------------------------------------------------------------------


def test_mquake(file):
    raw = [
        {
            "case_id": number,
            "requested_rewrite": [
                {
                    "prompt": "The capital of {} is", "relation_id": "P36", "subject": land,
                    "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": true, "id": "Q2"},
                    "question": f"What is the capital of {land}?",
                }
            ],
            "questions": [f"{n}: where is the parliament of {land}?" for n in range(3)],
            "answer": true, "answer_alias": [f"old {true}"], "new_answer": new, "new_answer_alias": [f"City of {new}"],
            "single_hops": [{"question": "q", "cloze": "c", "answer": true, "answer_alias": []}],
            "new_single_hops": [{"question": "q", "cloze": "c", "answer": new, "answer_alias": []}],
            "orig": {"triples": [["Q", "P36", "Q2"]]},
        }
        for number, (land, new, true) in enumerate(CITIES, start=1)
    ]  # fmt: skip
    facts, notices = read(file(raw))
    assert counts(facts) == {
        "facts": sum(len(record["requested_rewrite"]) for record in raw), "paraphrases": 0, "neighbours": 0,
        "portability": sum(len(record["questions"]) for record in raw),
    }  # fmt: skip
    for fact, record in zip(facts, raw, strict=True):
        assert fact.target_true == record["answer"] and set(kinds(fact)) == {"multi-hop"}
        assert all(one.answers == (record["new_answer"], *record["new_answer_alias"]) for one in fact.portability)
    told = " ".join(notices)
    for key in ("question", "answer", "answer_alias", "single_hops", "new_single_hops", "orig", "target_new.id"):
        assert key in told


# -- RippleEdits -------------------------------------------------------------------------------------------------------


def asked(prompt: str, *answers: str, relation: str = "R", subject: str = "Q1", targets: tuple[str, ...] = ()) -> Any:
    """A criterion's test with one question."""
    first, *others = answers or ("",)
    query = {
        "prompt": prompt, "answers": [{"value": first, "aliases": others}] if answers else [], "query_type": "regular",
        "subject_id": subject, "relation": relation, "target_ids": list(targets), "phrase": None,
    }  # fmt: skip
    return {"test_queries": [query], "test_condition": "OR", "condition_queries": [query]}


def ripple(land: str, new: str, true: str) -> dict[str, Any]:
    return {
        "example_type": "popular",
        "edit": {
            "prompt": f"The name of the capital city of {land} is {new}.", "subject_id": "Q1", "relation": "CAPITAL",
            "target_id": "Q5",
            "original_fact": {
                "prompt": f"The name of the capital city of {land} is {true}.", "subject_id": "Q1",
                "relation": "CAPITAL", "target_id": "Q6",
            },
        },
        "Relation_Specificity": [
            asked(f"The name of the anthem of {land} is", "a song", "the song", relation="ANTHEM"),
            asked(f"The name of the continent which {land} is part of is", "a continent", relation="CONTINENT"),
        ],
        "Logical_Generalization": [asked(f"The name of the country of {new} is", land, subject="Q5")],
        "Subject_Aliasing": [asked("The name of the capital city of it is", new, f"old {new}", relation="CAPITAL")],
        "Compositionality_I": [asked(f"The mayor of the capital city of {land} is", "Ann", relation="MAYOR")],
        "Compositionality_II": [],
        "Forgetfulness": [asked(f"A city of {land} is", relation="CITY")],
    }  # fmt: skip


def check_ripple(facts: list[Fact], raw: list[dict[str, Any]]) -> None:
    stays, follows = ("Relation_Specificity", "Forgetfulness"), ("Logical", "Subject", "Compositionality")

    def answered(record: dict[str, Any], names: tuple[str, ...]) -> int:
        tests = [test for key, value in record.items() if key.startswith(names) for test in value]
        return sum(bool(query["answers"]) for test in tests for query in test["test_queries"])

    assert counts(facts) == {
        "facts": len(raw), "paraphrases": 0,
        "neighbours": sum(answered(record, stays) for record in raw),
        "portability": sum(answered(record, follows) for record in raw),
    }  # fmt: skip


def test_rippleedits(file):
    raw = [ripple(*city) for city in CITIES]
    facts, notices = read(file(raw))
    check_ripple(facts, raw)
    for fact, (land, new, true) in zip(facts, CITIES, strict=True):
        assert fact == Fact(
            land, "The name of the capital city of {} is", new, true, relation="CAPITAL", subject_found=True,
            neighbours=[
                (f"The name of the anthem of {land} is", "a song"),
                (f"The name of the continent which {land} is part of is", "a continent"),
            ],
            portability=[
                Portability(f"The name of the country of {new} is", (land,), "reasoning"),
                Portability("The name of the capital city of it is", (new, f"old {new}"), "alias"),
                Portability(f"The mayor of the capital city of {land} is", ("Ann",), "two-hop"),
            ],
        )  # fmt: skip
    told = "\n".join(notices)
    for part in (
        "the subject is taken from what the questions about the same id share with the sentence (3 rows",
        "condition_queries, which ask what the model knows before the edit, are not used (3 rows",
        "of several right answers of a neighbour the first is used", "'edit.subject_id', 'edit.target_id'",
        "neighbours without an answer of their own are left out", "'example_type'",
    ):  # fmt: skip
        assert part in told


def test_rippleedits_where_a_record_shows_less(file):
    new_fact = ripple(*CITIES[0])
    del new_fact["edit"]["original_fact"]
    (fact,), _ = read(file([new_fact]))
    assert (fact.text, fact.target_new, fact.target_true) == (
        "The name of the capital city of Norway is", "Bergen", None,
    )  # fmt: skip
    # the set's own description calls the fact that was true "previous_fact", and misspells a criterion
    older = ripple("Leonardo DiCaprio", "Syria", "Spain")
    older["edit"]["previous_fact"] = older["edit"].pop("original_fact")
    older = {"edit": older["edit"], "Relation_Specifity": older["Relation_Specificity"][:1]}
    older["edit"]["note"] = older["locality"] = "x"
    (fact,), notices = read(file([older]))
    assert (fact.subject, fact.target_new, fact.target_true) == ("Leonardo DiCaprio", "Syria", "Spain")
    assert "'edit.previous_fact.target_id'" in str(notices) and "'edit.note'" in str(notices)
    assert "'locality'" in str(notices)
    assert [one.target for one in fact.neighbours] == ["a song"]
    # the answers begin alike, and no question has them
    alike = ripple("Texas is Big", "New York", "New Orleans") | {"Subject_Aliasing": []}
    alike["Relation_Specificity"] = [asked("The name of the anthem of Texas is Big is", "x", relation="ANTHEM")]
    (fact,), _ = read(file([alike]))
    assert (fact.target_new, fact.target_true) == ("New York", "New Orleans")
    # nothing shows the subject's text
    bare = {"edit": ripple(*CITIES[0])["edit"]}
    assert "gives its subject as an id alone" in refusal(read_facts, file([bare]))
    (fact,), _ = read(file([bare]), subject="found")
    assert fact.subject == "Norway" and fact.subject_found
    # nothing shows where the answer begins
    for sentence in ("Norway's capital, Bergen.", "The capital is what is Bergen."):
        bare = {"edit": {"prompt": sentence, "subject_id": "Q1"}}
        assert "nothing shows where its answer begins; add target_new" in refusal(read_facts, file([bare]))
        given = bare | {"target_new": "Bergen", "subject": "capital"}
        (fact,), _ = read(file([given]))
        assert (fact.target_new, fact.subject, fact.subject_found) == ("Bergen", "capital", False)
    wrong = ripple(*CITIES[0]) | {"subject": "Sweden"}
    assert "does not contain the subject 'Sweden'" in refusal(read_facts, file([wrong]))
    two = ripple(*CITIES[0])
    two["Subject_Aliasing"][0]["test_queries"] *= 2
    assert any("test_condition is not used" in line for line in read(file([two]))[1])
    two["Forgetfulness"] = [{"queries": []}]
    assert "Forgetfulness: {'queries': []} is no test" in refusal(read_facts, file([two]))


# -- KnowEdit, WikiBigEdit ---------------------------------------------------------------------------------------------


def test_knowedit(file):
    raw = [
        {
            "subject": land, "prompt": f"The capital of {land} is", "target_new": new, "ground_truth": true,
            "rephrase": f"{land}'s capital is",
            "portability": {
                "Reasoning": [{"prompt": f"The mayor of the capital of {land} is", "ground_truth": [["Ann", "A."]]}],
                "Subject_Aliasing": [{"prompt": "The capital of that land is", "ground_truth": [[new]]}],
                "Logical_Generalization": [{"prompt": f"{new} is the capital of", "ground_truth": [[land]]}],
            },
            "locality": {
                "Relation_Specificity": [
                    {"prompt": f"The anthem of {land} is", "ground_truth": [["a song"]]},
                    {"prompt": f"The king of {land} is", "ground_truth": [["no one", "nobody"]]},
                ],
                "Forgetfulness": [{"prompt": f"Another city of {land} is", "ground_truth": [["Town"]]}],
            },
        }
        for land, new, true in CITIES
    ]  # fmt: skip
    facts, notices = read(file(raw))
    assert counts(facts) == {
        "facts": 3,
        "paraphrases": 3,
        "neighbours": sum(len(group) for record in raw for group in record["locality"].values()),
        "portability": sum(len(group) for record in raw for group in record["portability"].values()),
    }
    assert kinds(facts[0]) == ["reasoning", "alias", "reasoning"] and facts[0].portability[0].answers == ("Ann", "A.")
    assert notices == [
        "locality: of several right answers of a neighbour the first is used (3 rows, the first: record 1)"
    ]


def test_wikibigedit(file):
    raw = [
        {
            "tag": "update", "subject": land, "relation": "capital", "object": new, "ans": new,
            "update": f"What is the capital of {land}?", "rephrase": f"Which city is the capital of {land}?",
            "personas": f"Hey, do you know the capital of {land}?", "loc": f"What is {land}'s anthem?",
            "loc_ans": "a song", "mhop": f"Who is mayor of the capital of {land}?" if hop else None,
            "mhop_ans": "Ann" if hop else float("nan"),
        }
        for (land, new, _), hop in zip(CITIES, (True, False, True), strict=True)
    ]  # fmt: skip
    facts, notices = read(file(raw))
    assert counts(facts) == {
        "facts": 3, "paraphrases": 6, "neighbours": 3, "portability": sum(bool(record["mhop"]) for record in raw),
    }  # fmt: skip
    assert facts[0].paraphrases == (raw[0]["rephrase"], raw[0]["personas"]) and kinds(facts[0]) == ["multi-hop"]
    assert notices == ["keys of no use to an edit, ignored: 'tag'"]
