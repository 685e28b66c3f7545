"""The long set: what it promises, and that it is read like any other."""

import gzip
import re
from collections import Counter

import pytest

from encore_core.cli import main
from encore_core.facts import Fact, FactError, check_batch, check_batches, duplicate_subjects, read_facts, source

TRUTHS = {
    ("city_country", "Paris"): "France",
    ("city_country", "Tokyo"): "Japan",
    ("city_country", "Cairo"): "Egypt",
    ("us_city_state", "Houston"): "Texas",
    ("german_state", "Munich"): "Bavaria",
    ("french_region", "Lyon"): "Auvergne-Rhone-Alpes",
    ("italian_region", "Milan"): "Lombardy",
    ("uk_nation", "Edinburgh"): "Scotland",
    ("airport_country", "LHR"): "the United Kingdom",
    ("element_symbol", "carbon"): "C",
    ("element_number", "gold"): "79",
    ("name_in_german", "Germany"): "Deutschland",
    ("name_in_french", "United Kingdom"): "Royaume-Uni",
    ("landmark_country", "Eiffel Tower"): "France",
}
PLACES = re.compile(r"^(city|us_city|airport)_|_(state|province|prefecture|region|nation)$")


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return read_facts("long")


def test_it_has_ten_thousand_facts_of_many_relations(facts):
    relations = Counter(fact.relation for fact in facts)
    assert len(facts) >= 10_000 and len(relations) >= 15 and min(relations.values()) >= 20
    assert source.LONG.stat().st_size < 2_000_000
    # any first part is a fair sample
    first = Counter(fact.relation for fact in facts[:2000])
    assert all(abs(first[name] - number * 2000 / len(facts)) < 2 for name, number in relations.items())


def test_every_fact_is_whole(facts):
    for fact in facts:
        assert len(fact.paraphrases) == len(fact.neighbours) == 2 and len(fact.portability) == 1, fact
        assert fact.target_true and fact.relation and fact.id == f"{fact.relation}/{fact.subject}", fact
        assert len({fact.text, *fact.paraphrases}) == 3, fact
        question = fact.portability[0]
        assert question.kind in ("two-hop", "spelling", "arithmetic") and len(set(question.answers)) >= 1, fact
        for text in (fact.text, *fact.paraphrases, question.prompt):
            assert text.count(fact.subject) == 1 and "{" not in text and "  " not in text and "THAT" not in text, fact


def test_nothing_is_there_twice_or_against_another(facts):
    assert len({fact.id for fact in facts}) == len({fact.asked for fact in facts}) == len(facts)
    assert not duplicate_subjects(facts)
    assert check_batch(facts) == (facts, [])
    # a place is the subject of one fact only, so that no two edits of the set say that it is in two places
    places = Counter(fact.subject for fact in facts if PLACES.search(fact.relation))
    assert places.most_common(1)[0][1] == 1


def test_the_new_answers_are_false_answers_of_the_relation(facts):
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, set()).add(fact.target_true)
    for fact in facts:
        assert fact.target_new != fact.target_true and fact.target_new in answers[fact.relation], fact
        for answer in (fact.target_new, fact.target_true):
            assert not re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", fact.text), fact


def test_neighbours_are_about_other_subjects_and_true(facts):
    truth: dict[tuple[str, str], str] = {(fact.relation, fact.text): fact.target_true for fact in facts}
    unknown = 0
    for fact in facts:
        assert len({near.prompt for near in fact.neighbours} | {fact.text}) == 3, fact
        for near in fact.neighbours:
            assert fact.subject not in near.prompt and near.target != fact.target_new, fact
            start, end = fact.prompt.split("{}")
            assert near.prompt.endswith(end) and near.prompt.startswith(start.removesuffix("the ")), fact
            unknown += truth.get((fact.relation, near.prompt), near.target) != near.target
    assert unknown == 0


def test_known_truths(facts):
    truth = {(fact.relation, fact.subject): fact.target_true for fact in facts}
    assert {key: truth.get(key) for key in TRUTHS} == TRUTHS


def test_questions_follow_from_the_new_answer(facts):
    seen = Counter()
    capitals = {"Italy": "Rome", "Japan": "Tokyo", "Bavaria": "Munich", "Texas": "Austin", "Tuscany": "Florence"}
    for fact in facts:
        question = fact.portability[0]
        if question.prompt.startswith("The capital of ") and fact.target_new in capitals:
            assert question.answers == (capitals[fact.target_new],), fact
            seen[fact.target_new] += 1
        if question.kind == "spelling":
            assert question.answers == (fact.target_new[0],), fact
        if fact.relation == "element_number":
            assert question.answers == (str(int(fact.target_new) + 1),), fact
        if fact.relation == "city_standard_time" and fact.target_new == "UTC+5:30":
            assert question.answers == ("17:30", "5:30 p.m."), fact
            seen["noon"] += 1
    assert set(seen) == {*capitals, "noon"}


@pytest.mark.parametrize("start", [0, 5000, -100])
def test_a_batch_of_a_hundred_passes_the_checks_of_a_session(facts, start):
    batch = facts[start:][:100]
    assert check_batches(batch, 100) == ([batch], [])


def test_it_is_read_by_its_name_and_other_packed_files_are_not(tmp_path, monkeypatch):
    assert [fact.place for fact in read_facts("long", limit=2)] == ["line 1", "line 2"]
    with pytest.raises(FactError, match="is a gzip archive"):
        read_facts(source.LONG)
    broken = tmp_path / "long.jsonl.gz"
    monkeypatch.setitem(source.SETS, "long", broken)
    for content in (gzip.compress(b'{"subject": 1}')[:-9], b"no archive", b""):
        broken.write_bytes(content)
        with pytest.raises(FactError, match=r"cannot be unpacked|is empty"):
            read_facts("long")
    broken.unlink()
    with pytest.raises(FactError, match="no such file"):
        read_facts("long")


def test_the_command_line_takes_it(tiny_folder, tmp_path, capsys):
    asked = ["run", f"--model={tiny_folder}", "--device=cpu", "--facts=long", "--edits=10000", "--batch-size=100"]
    assert main([*asked, "--dry-run"]) == 0, capsys.readouterr().err
    assert main([*asked[:-2], "--edits=99999", "--dry-run"]) == 2
    assert "facts in 'long'" in capsys.readouterr().err
