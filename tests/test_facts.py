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
