"""Facts: the types, hostile text, batches, and what the bundled set promises. Beside it: `test_fact_spelling`, and for
the readers `test_fact_forms` (records), `test_fact_files` (JSON, tables, encodings), `test_fact_cases` (real files)."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from refusals import refusal

from encore_core import facts as facts_module
from encore_core.facts import (
    Fact,
    FactError,
    Neighbour,
    Portability,
    check_batch,
    check_batches,
    duplicate_subjects,
    parse_facts,
    read_facts,
    write_facts,
)

SHARED = Path(__file__).parents[2] / "shared/data"
ROME = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}


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
        ({"prompt": "FRANCE, dear FRANCE, is"}, ["does not contain", "'France'", "another spelling"]),
        ({"prompt": "The capital of Francé is"}, ["does not contain", "'France'"]),
        ({"join": "-"}, ["join '-'", '""', '" "', "left out"]),
        ({"join": []}, ["join []", "left out"]),
        ({"portability": "x"}, ["portability: 'x'", '"answers"']),
        ({"portability": [{"prompt": "a", "answers": []}]}, ["portability: 'a' has no answer"]),
        ({"portability": [{"prompt": " ", "answers": ["b"]}]}, ["portability: prompt ' '", "blank"]),
        ({"portability": [{"prompt": "a", "answers": "b", "extra": 1}]}, ["portability", "is not a question"]),
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


PROMPTS = [
    ("<|user|>\nWhere is {}?\n<|assistant|>\n", "<|user|>\nWhere is {}?\n<|assistant|>\n"),
    ("  The capital of {} is  ", "The capital of {} is"),
    ("\n\tThe capital of {} is\t", "\n\tThe capital of {} is\t"),
    ("\u3000{}の首都は\u00a0", "{}の首都は"),
    ("Q: {}?\r\nA:\r\n", "Q: {}?\r\nA:\r\n"),
    ("{} is \n ", "{} is \n"),
]


@pytest.mark.parametrize(("typed", "kept"), PROMPTS)
def test_line_ends_and_tabs_of_prompts_stay_and_blanks_go(typed, kept, tmp_path):
    other = typed.replace("{}", "Spain")
    fact = Fact(
        "Japan", typed, " Rome\n", " Paris\n", paraphrases=[typed], neighbours=[(other, " x\n")],
        portability=[Portability(other, (" y\n",))],
    )  # fmt: skip
    assert (fact.prompt, fact.target_new, fact.target_true) == (kept, "Rome", "Paris")
    assert fact.paraphrases == (kept.replace("{}", "Japan"),)
    assert fact.neighbours == (Neighbour(kept.replace("{}", "Spain"), "x"),)
    assert fact.portability[0].prompt == kept.replace("{}", "Spain") and fact.portability[0].answers == ("y",)
    assert fact.text[slice(*fact.subject_span)] == "Japan"
    write_facts([fact], tmp_path / "facts.jsonl")
    assert read_facts(tmp_path / "facts.jsonl") == [fact]
    # what is asked does not depend on the whitespace, so neither do contradictions
    assert fact.asked == Fact("Japan", kept.strip(), "Rome").asked


def test_portability_and_join_are_kept():
    question = {"prompt": "The seat of France's parliament is", "answers": "Rome", "kind": "hop"}
    fact = Fact(**ROME, join="", portability=[question])
    assert fact.portability == (Portability("The seat of France's parliament is", ("Rome",), "hop"),)
    row = fact.to_dict()
    assert row["join"] == "" and row["portability"] == [question | {"answers": ["Rome"]}]
    assert Fact(**row) == fact and parse_facts(json.dumps(row)) == [fact] and hash(fact)
    assert "join" not in Fact(**ROME).to_dict() and Fact(**ROME, join=" ").to_dict()["join"] == " "


def test_no_torch_is_imported():
    folder = str(Path(facts_module.__file__).parents[1])
    # the module alone: the package's own __init__ may well import the engine
    code = (
        "import sys, types; sys.modules['torch'] = None; pkg = types.ModuleType('encore_core');"
        f"pkg.__path__ = [{folder!r}]; sys.modules['encore_core'] = pkg; import encore_core.facts"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_our_own_form_round_trips(tmp_path):
    facts = [
        Fact("a\u2028b", "x {y} a\u2028b {{ is", "\u0645\u0631\u062d\u0628\u0627", "q", known=True, id="1"),
        Fact("👩‍👩‍👧", "{} is", "z", "t", ("p 👩‍👩‍👧",), (Neighbour("n", "t"),), relation="r", known=False),
        Fact("a", "{}\n", "b", join="", portability=(Portability("p\n", ("x", "y"), "k"), Portability("q", ("z",)))),
    ]
    path = tmp_path / "facts.jsonl"
    path.write_text("old", encoding="utf-8")
    write_facts(facts, path)
    assert read_facts(path) == facts
    assert read_facts(str(path), limit=1) == facts[:1]
    assert parse_facts(json.dumps([fact.to_dict() for fact in facts], indent=1)) == facts
    assert list(tmp_path.iterdir()) == [path]
    assert "cannot be written" in refusal(write_facts, facts, path / "x.jsonl")


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


def many(n: int) -> list[dict]:
    return [{"subject": f"Land{i}", "prompt": f"The capital of Land{i} is", "target_new": "Rome"} for i in range(n)]


def test_all_batches_are_looked_at_and_facts_named_as_in_the_file():
    rows = [*many(20), ROME, ROME | {"target_new": "Oslo"}, *many(3)]
    facts = [Fact(**row) for row in rows]
    assert "facts 21 and 22 contradict" in refusal(check_batches, facts, 10)
    batches, notices = check_batches(facts, 21)  # they are in two batches then
    assert [len(batch) for batch in batches] == [21, 4] and notices == []
    batches, notices = check_batches([*facts[:20], *facts[:3]], 23)
    assert (
        [fact for batch in batches for fact in batch] == facts[:20]
        and "fact 21 dropped" in notices[0]
        and len(notices) == 3
    )

    as_json = parse_facts(json.dumps(rows))
    assert "facts 21 and 22 contradict" in refusal(check_batches, as_json, 10)
    assert "facts 21 and 22 contradict" in refusal(check_batches, as_json[15:], 10)  # whatever is taken of the file
    as_lines = parse_facts("\n" + "\n".join(map(json.dumps, rows)))
    assert "lines 22 and 23 contradict" in refusal(check_batches, as_lines, 10)
    bad = parse_facts(json.dumps([{"subject": "x"}, *rows]), on_error="skip")
    assert "facts 22 and 23 contradict" in refusal(check_batches, bad, 10)
    quakes = [{"case_id": 3, "requested_rewrite": rows[20:22]}]
    assert "record 1, rewrite 1 and record 1, rewrite 2 contradict" in refusal(
        check_batches, parse_facts(json.dumps(quakes)), 10
    )
    for size in (0, -1, True, "10"):
        assert "batch_size" in refusal(check_batches, facts, size)


def test_the_place_in_a_file_is_no_part_of_a_fact():
    one, two = parse_facts(json.dumps([ROME, ROME]))
    assert (one.place, two.place) == ("record 1", "record 2") and one == two == Fact(**ROME)
    assert hash(one) == hash(two) and "place" not in one.to_dict()


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
    assert len(zsre) == 998 and sum("skipped" in line for line in notices) == 2
    assert any("of no use to an edit, ignored: 'cond'" in line for line in notices)
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
