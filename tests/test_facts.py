"""Facts: every reader, every refusal, hostile text, and what the bundled set promises."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from encore_core import facts as facts_module
from encore_core.facts import (
    Fact,
    FactError,
    Neighbour,
    check_batch,
    duplicate_subjects,
    parse_facts,
    read_facts,
    write_facts,
)

SHARED = Path(__file__).parents[2] / "shared/data"
ROME = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}


def refusal(call, *args, **kwargs) -> str:
    """The message with which a call refuses; always one line."""
    with pytest.raises(FactError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message and message.splitlines() == [message]
    return message


# ------------------------------------------------------------------------------------------------- the type


def test_a_fact_is_text_around_a_slot():
    fact = Fact("France", "The capital of {} is", " Rome ", target_true="Paris\n")
    assert (fact.text, fact.target_new, fact.target_true) == ("The capital of France is", "Rome", "Paris")
    assert fact.text[slice(*fact.subject_span)] == "France"
    assert fact.key == ("France", "The capital of {} is")
    assert fact == Fact("France", "The capital of France is", "Rome", "Paris")
    assert hash(fact)


def test_a_prompt_with_a_slot_may_name_the_subject_again():
    fact = Fact("France", "France is large. The capital of {} is", "Rome")
    assert fact.text == "France is large. The capital of France is"
    assert fact.subject_span == (32, 38)


@pytest.mark.parametrize(
    ("subject", "prompt", "text"),
    [
        ("set {x}", "The elements of set {x} are", "The elements of set {x} are"),
        ("France", "{{ {x} {0} The capital of {} is }", "{{ {x} {0} The capital of France is }"),
        ("France", "{{}} is", "{France} is"),
        ("f{}", "The function f{} returns", "The function f{} returns"),
        ("{}", "The token {} means", "The token {} means"),
        ('the "Louvre"', 'You find the "Louvre" in', 'You find the "Louvre" in'),
        ("O'Neal's\nson", "He met O'Neal's\nson in", "He met O'Neal's\nson in"),
        ("👩‍👩‍👧 café", "In 👩‍👩‍👧 café one eats", "In 👩‍👩‍👧 café one eats"),
        ("ירושלים", "הבירה היא ירושלים או", "הבירה היא ירושלים או"),
        ("a.*b\\", "The pattern a.*b\\ matches", "The pattern a.*b\\ matches"),
        ("%s", "In C, %s prints a", "In C, %s prints a"),
    ],
)
def test_hostile_text_simply_works(subject, prompt, text):
    fact = Fact(subject, prompt, "x")
    assert fact.text == text
    assert fact.text[slice(*fact.subject_span)] == subject
    assert Fact(**fact.to_dict()) == fact


def test_slots_hold_for_random_text():
    rng = random.Random(0)
    alphabet = "{}a b\n\"'é👩\u202e\\%"
    built = 0
    for _ in range(4000):
        subject = "".join(rng.choices(alphabet, k=rng.randint(1, 4)))
        prompt = "".join(rng.choices(alphabet, k=rng.randint(1, 12)))
        if rng.random() < 0.7:
            at = rng.randint(0, len(prompt))
            prompt = prompt[:at] + rng.choice([subject, "{}"]) + prompt[at:]
        try:
            fact = Fact(subject, prompt, "x")
        except FactError as error:
            assert "\n" not in str(error)
            continue
        built += 1
        begin, end = fact.subject_span
        assert fact.prompt.count("{}") == 1
        assert fact.text[begin:end] == fact.subject == subject.strip()
        assert fact.text[:begin] + "{}" + fact.text[end:] == fact.prompt
        assert Fact(**fact.to_dict()) == fact
    assert built > 1000


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"prompt": "The capital of Spain is"}, ["prompt", "Spain", "does not contain", "'France'", "{}"]),
        ({"prompt": "The capital of FRANCE is"}, ["does not contain", "another spelling"]),
        ({"prompt": "France, dear France, is"}, ["prompt", "'France'", "2 times", "'{}, dear France, is'"]),
        ({"subject": "aa", "prompt": "baaab"}, ["'aa'", "2 times"]),
        ({"prompt": "{} and {}"}, ["prompt", "'{} and {}'", "slot", "2 times", "once"]),
        ({"subject": ""}, ["subject ''", "blank"]),
        ({"subject": " \n"}, ["subject ' \\n'", "blank"]),
        ({"prompt": "\t"}, ["prompt '\\t'", "blank"]),
        ({"target_new": "  "}, ["target_new '  '", "blank"]),
        ({"target_new": "\u200b"}, ["target_new", "blank"]),
        ({"target_new": "\ud83d"}, ["target_new", "surrogate"]),
        ({"target_new": None}, ["target_new", "missing"]),
        ({"target_new": 1998}, ["target_new 1998", "a number", "text"]),
        ({"subject": ["France"]}, ["subject ['France']", "a list"]),
        ({"target_true": {"str": "x"}}, ["target_true", "an object"]),
        ({"target_true": "Rome "}, ["target_new 'Rome'", "same as target_true"]),
        ({"known": "yes"}, ["known 'yes'", "true, false"]),
        ({"paraphrases": 3}, ["paraphrases 3", "list"]),
        ({"paraphrases": [""]}, ["paraphrases ''", "blank"]),
        (
            {"neighbours": ["The capital of Spain is"]},
            ["neighbours", "'The capital of Spain is'", "target_true"],
        ),
        ({"neighbours": [("a", "b", "c")]}, ["neighbours", "('a', 'b', 'c')", "pair"]),
        ({"neighbours": [{"prompt": "a"}]}, ["neighbours", '"target"']),
        ({"neighbours": [("a", " ")]}, ["neighbours: target ' '", "blank"]),
        ({"prompt": "x" * 5000}, ["x" * 40, "…"]),
    ],
)
def test_refusals_name_field_value_and_remedy(changes, parts):
    message = refusal(Fact, **(ROME | changes))
    assert all(part in message for part in parts), message
    assert len(message) < 400


def test_lists_are_taken_in_every_shape():
    fact = Fact(
        **ROME,
        target_true="Paris",
        paraphrases=["France's capital is", "The seat of {}'s government is"],
        neighbours=["a", ("b", "B"), ["c", "C"], {"prompt": "d", "target": "D"}, Neighbour("e", "E")],
    )
    assert fact.paraphrases == ("France's capital is", "The seat of France's government is")
    assert [(n.prompt, n.target) for n in fact.neighbours] == [
        ("a", "Paris"),
        ("b", "B"),
        ("c", "C"),
        ("d", "D"),
        ("e", "E"),
    ]


def test_no_torch_is_imported():
    folder = str(Path(facts_module.__file__).parents[1])
    # the module alone: the package's own __init__ may well import the engine
    code = (
        "import sys, types; sys.modules['torch'] = None; pkg = types.ModuleType('encore_core');"
        f"pkg.__path__ = [{folder!r}]; sys.modules['encore_core'] = pkg; import encore_core.facts"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------- the readers

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The native language of Montesquieu is"],
    "generation_prompts": ["Danielle Darrieux's mother tongue is"],
}
EASYEDIT = {
    "case_id": 2,
    "prompt": "Toko Yasuda, the",
    "target_new": "piano",
    "subject": "Toko Yasuda",
    "ground_truth": "guitar",
    "rephrase_prompt": "Toko Yasuda is incredible at",
    "locality_prompt": "John Lennon performs on the",
    "locality_ground_truth": "guitar",
}
ZSRE = {
    "subject": "WEFS",
    "src": "When was WEFS established?",
    "pred": "1998",
    "rephrase": "When has WEFS been established?",
    "alt": "1997",
    "answers": ["1987"],
    "loc": "nq question: who voiced gaston",
    "loc_ans": "Richard White",
    "cond": "1998 >> 1997",
}


def test_counterfact():
    (fact,) = parse_facts(json.dumps([COUNTERFACT]))
    assert fact == Fact(
        "Danielle Darrieux",
        "The mother tongue of {} is",
        "English",
        "French",
        ("Shayna does this. Danielle Darrieux, a native",),
        (Neighbour("The native language of Montesquieu is", "French"),),
        relation="P103",
        id="7",
    )


@pytest.mark.parametrize("changes", [{}, {"ground_truth": ["guitar"], "target_new": ["piano"]}])
def test_easyedit(changes):
    (fact,) = parse_facts(json.dumps(EASYEDIT | changes))
    assert fact == Fact(
        "Toko Yasuda",
        "{}, the",
        "piano",
        "guitar",
        ("Toko Yasuda is incredible at",),
        (Neighbour("John Lennon performs on the", "guitar"),),
        id="2",
    )


def test_easyedit_with_lists_and_nested_locality():
    record = {
        "prompt": "Toko Yasuda, the",
        "subject": "Toko Yasuda",
        "target_new": "piano",
        "rephrase": ["one Toko Yasuda", "two Toko Yasuda"],
        "locality_prompt": ["a", "b"],
        "locality_ground_truth": ["A", ["B", "also B"]],
        "locality": {
            "neighborhood": {"prompt": "c", "ground_truth": "C"},
            "distracting": {"prompt": ["d", "e"], "ground_truth": ["D", "E"]},
            "specific": [{"prompt": "f", "ground_truth": [["F"]]}],
        },
    }
    (fact,) = parse_facts(json.dumps([record]))
    assert fact.paraphrases == ("one Toko Yasuda", "two Toko Yasuda")
    assert "".join(n.prompt for n in fact.neighbours) == "abcdef"
    assert "".join(n.target for n in fact.neighbours) == "ABCDEF"
    assert fact.target_true is None


def test_easyedit_locality_of_unequal_length():
    record = EASYEDIT | {"locality_prompt": ["a", "b"], "locality_ground_truth": ["A"]}
    message = refusal(parse_facts, json.dumps([record]))
    assert "record 1" in message and "2 prompts and 1 answers" in message


def test_zsre_takes_the_gold_answer_unless_it_is_the_new_one():
    gold, other = parse_facts(json.dumps([ZSRE, ZSRE | {"answers": ["1997"]}]))
    assert (gold.prompt, gold.target_new, gold.target_true) == ("When was {} established?", "1997", "1987")
    assert gold.neighbours == (Neighbour("nq question: who voiced gaston", "Richard White"),)
    assert other.target_true == "1998"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(delimiter):
    rows = [
        ["Subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "relation"],
        ["France", '"The ""capital"", of {}\nis; so"', "Rome", "Paris", "a | b", "c | d => Oslo", "capital"],
        ["Spain", "The capital of Spain is", "Oslo", "", "", "", ""],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    first, second = parse_facts(text)
    assert first.prompt == 'The "capital", of {}\nis; so'
    assert first.paraphrases == ("a", "b")
    assert first.neighbours == (Neighbour("c", "Paris"), Neighbour("d", "Oslo"))
    assert (first.target_true, first.relation) == ("Paris", "capital")
    assert second == Fact("Spain", "The capital of {} is", "Oslo")


def test_our_own_form_round_trips(tmp_path):
    facts = [
        Fact("a\u2028b", "x {y} a\u2028b {{ is", "\u0645\u0631\u062d\u0628\u0627", "q", known=True, id="1"),
        Fact("👩‍👩‍👧", "{} is", "z", "t", ("p 👩‍👩‍👧",), (Neighbour("n", "t"),), relation="r", known=False),
    ]
    path = tmp_path / "facts.jsonl"
    path.write_text("old", encoding="utf-8")
    write_facts(facts, path)
    assert read_facts(path) == facts
    assert read_facts(str(path), limit=1) == facts[:1]
    assert parse_facts(json.dumps([fact.to_dict() for fact in facts], indent=1)) == facts
    assert list(tmp_path.iterdir()) == [path]
    assert "cannot be written" in refusal(write_facts, facts, path / "x.jsonl")


def test_streams_of_text_and_bytes():
    line = json.dumps(ROME, ensure_ascii=False)
    upload = io.BytesIO(b"\xef\xbb\xbf" + line.encode())
    upload.name = "mine.jsonl"
    assert read_facts(upload) == read_facts(io.StringIO(line)) == [Fact(**ROME)]


def test_a_form_can_be_forced():
    both = EASYEDIT | {"src": "unused"}
    assert parse_facts(json.dumps(both), format="easyedit")[0].target_true == "guitar"
    assert "format 'xml'" in refusal(parse_facts, "x", format="xml")
    assert "limit 0" in refusal(parse_facts, "x", limit=0)
    assert "on_error 'ignore'" in refusal(parse_facts, "x", on_error="ignore")


# ---------------------------------------------------------------------------------------------- bad content

GOOD = json.dumps(ROME)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["pasted", "empty"]),
        (" \n\t\n", ["pasted", "empty"]),
        ("[]", ["no fact"]),
        ('[{"subject": "France",]', ["malformed JSON", "line 1, column 23"]),
        ("[\n1,\n}", ["malformed JSON", "line 3, column 1"]),
        (GOOD + "\n{oops\n", ["line 2", "malformed JSON", "column 2"]),
        ("[" * 100000, ["malformed JSON"]),
        ('{"facts": 3}', ["an object", "not a list of facts", "JSON array"]),
        ("[1, 2]", ["2 of 2 rows", "record 1: 1 is a number", "object"]),
        ('[{"question": "x"}]', ["record 1", "no known form", "question", "subject, prompt and target_new"]),
        ('[{"subject": "x"}]', ["record 1", "prompt is missing"]),
        ('[{"requested_rewrite": 3}]', ["requested_rewrite 3", "an object"]),
        ("subject,prompt\na,b\n", ["columns missing: target_new", "'subject, prompt'"]),
        ("hello", ["columns missing: subject, prompt, target_new", "'hello'"]),
        (",,,\n", ["columns missing"]),
        ("subject,prompt,target_new\n", ["no fact"]),
        ("subject,prompt,target_new,prompt\na,a,b,c\n", ["twice", "'prompt'"]),
        ("subject,prompt,target_new\na,a, but b,c\n", ["line 2", "4 values for 3 columns", "quotes"]),
        ("subject,prompt,target_new\n\na,a\n", ["line 3", "target_new", "missing"]),
        ("subject,prompt,target_new\na,a,\n", ["line 2", "target_new ''", "blank"]),
        ('subject,prompt,target_new\na,"a b,c\n', ["line 2", "malformed CSV", "quote"]),
    ],
)
def test_bad_content_is_named(text, parts):
    message = refusal(parse_facts, text)
    assert all(part in message for part in parts), message


def test_bad_sources_are_named(tmp_path, monkeypatch):
    assert "no such file" in refusal(read_facts, tmp_path / "none.csv")
    assert "folder" in refusal(read_facts, tmp_path)
    assert "cannot be read" in refusal(read_facts, "a\0b")
    assert "facts cannot be read from 3" in refusal(read_facts, 3)
    path = tmp_path / "x.json"
    path.write_bytes(b"")
    assert "x.json: the file is empty" in refusal(read_facts, path)
    path.write_bytes('[{"subject": "é"}]'.encode("latin-1"))
    assert "not UTF-8" in (message := refusal(read_facts, path)) and "0xe9" in message
    path.write_text("hello", encoding="utf-8")
    assert "malformed JSON" in refusal(read_facts, path)

    def no_reading(*args, **kwargs):
        raise AssertionError("a file that is too large must not be read")

    with path.open("wb") as stream:
        stream.truncate(50_000_000)
    monkeypatch.setattr("pathlib.Path.open", no_reading)
    message = refusal(read_facts, path)
    assert "50.0 MB" in message and "20 MB" in message


def test_large_uploads_are_refused(monkeypatch):
    monkeypatch.setattr(facts_module, "MAX_BYTES", 100)
    for upload in (io.BytesIO(b"x" * 500), io.StringIO("x" * 500)):
        assert "limit" in refusal(read_facts, upload)
    assert "limit" in refusal(parse_facts, "é" * 60)


def test_bad_rows_are_listed_or_skipped():
    rows = [ROME | {"target_new": "" if i % 3 == 0 else f"x{i}"} for i in range(1, 100)]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(FactError) as caught:
        parse_facts(text, "big.jsonl")
    message = str(caught.value)
    assert message.startswith("big.jsonl: 33 of 99 rows cannot be used: line 3: target_new ''")
    assert "and 28 more (line 18, line 21" in message
    assert len(caught.value.problems) == 33

    notices: list[str] = []
    assert len(parse_facts(text, "big.jsonl", on_error="skip", notice=notices.append)) == 66
    assert len(notices) == 33 and notices[0].startswith("big.jsonl: line 3 skipped: target_new ''")
    assert len(parse_facts(text, limit=2)) == 2  # rows behind the limit are not looked at
    assert "no fact" in refusal(parse_facts, json.dumps(rows[2]), on_error="skip")


def test_what_is_not_understood_is_told():
    notices: list[str] = []
    parse_facts("subject,prompt,target_new,note\na,a,b,c\n", notice=notices.append)
    parse_facts(json.dumps([ROME | {"targt_true": "x"}] * 2), notice=notices.append)
    assert notices == ["pasted: columns ignored: 'note'", "pasted: keys ignored: 'targt_true'"]


# --------------------------------------------------------------------------------------------------- batches


def test_exact_duplicates_are_dropped_with_a_notice():
    rome, oslo = Fact(**ROME), Fact("Spain", "The capital of {} is", "Oslo")
    kept, notices = check_batch([rome, oslo, rome])
    assert kept == [rome, oslo]
    assert len(notices) == 1 and "fact 3 dropped" in notices[0] and "'The capital of France is'" in notices[0]


@pytest.mark.parametrize("prompt", ["The capital of {} is", "the  Capital of {} is"])
def test_contradictions_are_refused(prompt):
    message = refusal(check_batch, [Fact(**ROME), Fact("France", prompt, "Oslo")])
    assert "facts 1 and 2 contradict each other" in message and "'Rome'" in message and "'Oslo'" in message


def test_duplicate_subjects():
    facts = [Fact(**ROME), Fact("Spain", "{} is", "x"), Fact(**(ROME | {"target_new": "Oslo"}))]
    assert duplicate_subjects(facts) == {("France", "The capital of {} is"): [0, 2]}


# ------------------------------------------------------------------------------------ the shared data, ours


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_shared_files():
    counterfact = read_facts(SHARED / "counterfact_10k.jsonl")
    assert len(counterfact) == 10_000
    assert all(f.paraphrases and f.neighbours and f.target_true for f in counterfact)

    message = refusal(read_facts, SHARED / "zsre_1k.jsonl")
    assert "2 of 1000 rows" in message and "line 535" in message and "line 724" in message
    notices: list[str] = []
    zsre = read_facts(SHARED / "zsre_1k.jsonl", on_error="skip", notice=notices.append)
    assert len(zsre) == 998 and len(notices) == 2
    assert all(f.target_true and f.target_true != f.target_new for f in zsre)


@pytest.fixture(scope="module")
def bundled() -> list[Fact]:
    return read_facts("bundled")


def test_bundled_set_opens_with_the_capital_of_france(bundled):
    assert (bundled[0].text, bundled[0].target_new) == ("The capital of France is", "Rome")
    assert bundled[0].target_true == "Paris"


def test_bundled_set_is_as_promised(bundled):
    relations = Counter(fact.relation for fact in bundled)
    assert len(bundled) >= 1000 and len(relations) >= 8 and min(relations.values()) >= 20
    assert facts_module.BUNDLED.stat().st_size < 1_200_000
    assert len({fact.id for fact in bundled}) == len(bundled)
    assert not duplicate_subjects(bundled)
    assert check_batch(bundled) == (bundled, [])
    for fact in bundled:
        assert fact.text.count(fact.subject) == 1, fact
        assert fact.target_true, fact
        for answer in (fact.target_true, fact.target_new):
            assert not re.search(rf"\b{re.escape(answer)}\b", fact.text, re.IGNORECASE), fact
        assert len(set(fact.paraphrases) | {fact.text}) == 3, fact
        assert all(fact.subject in paraphrase for paraphrase in fact.paraphrases), fact
        assert len({n.prompt for n in fact.neighbours} | {fact.text}) == 6, fact
        assert all(n.target != fact.target_new for n in fact.neighbours), fact


def test_bundled_answers_are_answers_of_the_relation(bundled):
    answers = {relation: set() for relation in {fact.relation for fact in bundled}}
    truth = {fact.text: fact.target_true for fact in bundled}
    for fact in bundled:
        answers[fact.relation].add(fact.target_true)
    for fact in bundled:
        assert fact.target_new in answers[fact.relation]
        assert all(truth[n.prompt] == n.target for n in fact.neighbours)


def test_bundled_neighbours_share_the_answer_where_enough_do(bundled):
    shared = Counter((fact.relation, fact.target_true) for fact in bundled)
    for fact in bundled:
        others = shared[fact.relation, fact.target_true] - 1
        same = sum(n.target == fact.target_true for n in fact.neighbours)
        assert same == min(others, 5), fact


def test_bundled_set_has_marks(bundled):
    assert all(isinstance(fact.known, bool) for fact in bundled)
    assert sum(fact.known for fact in bundled) >= 400
    assert bundled[0].known
