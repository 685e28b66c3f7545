"""The same facts with several methods: what comes out is what separate edits give, and one search serves them all."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal
from tiny_models import CITIES

from encore_core.editing import shared_search
from encore_core.editing.comparison import Arm, arms_of, compare_edits, edit_with_each
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.methods import METHODS, PAPER

FOUR = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")


@pytest.fixture
def searches(monkeypatch) -> list[int]:
    """How many rules each search served."""
    found, real = [], shared_search.RuleSearch

    def counting(lm, facts, prefixes, layer, rules, **options):
        found.append(len(rules))
        return real(lm, facts, prefixes, layer, rules, **options)

    monkeypatch.setattr(shared_search, "RuleSearch", counting)
    return found


def alone(lm, method: str, statistics_text, batches) -> EditSession:
    session = EditSession(lm, method, statistics_text=statistics_text)
    for batch in batches:
        session.edit(batch, known="edit")
    return session


@pytest.mark.parametrize(
    "batch_size", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(10, marks=pytest.mark.slow)]
)
def test_each_side_is_what_that_method_gives_alone(lm, statistics_text, searches, batch_size):
    facts = CITIES[:4]
    found = compare_edits(lm, facts, FOUR, batch_size=batch_size, known="edit", statistics_text=statistics_text)
    assert [side.label for side in found.sides] == list(FOUR) and searches == [2]  # by the loss, and by MPES
    batches = [facts[start : start + batch_size] for start in range(0, len(facts), batch_size)]
    for side in found.sides:
        session = alone(lm, side.label, statistics_text, batches)
        wanted = [item for batch in session.history for item in batch.report.edited]
        got = [item for report in side.reports for item in report.edited]
        assert [(item.fact, item.steps, item.stopped) for item in got] == [
            (item.fact, item.steps, item.stopped) for item in wanted
        ]
        for one, other in zip(got, wanted, strict=True):
            assert one.probability_before == pytest.approx(other.probability_before, abs=1e-6)
            assert one.probability_after == pytest.approx(other.probability_after, abs=1e-5)
        for layer, matrix in side.session.matrices().items():
            base, same = lm.parameter(layer).data.double(), session.matrices()[layer].double()
            # Both are float32 sums: that alone makes them differ by half a unit in the last place.
            rounding = 1e-7 * torch.linalg.norm(base)
            assert torch.linalg.norm(matrix.double() - same) <= 1e-6 * torch.linalg.norm(same - base) + rounding


def test_the_model_is_as_before(llama, statistics_text):
    before = {layer: llama.matrix(layer).clone() for layer in range(llama.n_layers)}
    compare_edits(llama, CITIES[:2], FOUR, known="edit", statistics_text=statistics_text)
    assert all(torch.equal(before[layer], llama.matrix(layer)) for layer in before)


def test_a_fact_that_is_there_twice_is_dropped_with_a_word(llama, statistics_text):
    found = compare_edits(llama, [*CITIES[:2], CITIES[0]], FOUR, known="edit", statistics_text=statistics_text)
    for side in found.sides:
        assert side.session.n_edits == 2 and side.reports[0].notices == found.sides[0].reports[0].notices != ()


def test_other_hyper_parameters_have_a_search_of_their_own(llama, statistics_text, searches):
    arms = [Arm("MEMIT"), Arm("MEMIT", {"lr": 0.1}), Arm("MEMIT", {"steps": 3}), Arm("MEMIT", {"lambda_p": 10.0})]
    found = compare_edits(llama, CITIES[:2], arms, known="edit", statistics_text=statistics_text)
    assert [side.label for side in found.sides] == ["MEMIT", "MEMIT, lr 0.1", "MEMIT, steps 3", "MEMIT, lambda_p 10.0"]
    assert sorted(searches) == [1, 2]
    assert found.sides[2].reports[0].edited[0].steps <= 2 < found.sides[0].reports[0].edited[0].steps


def test_a_side_that_fails_says_why_and_the_others_stand(llama, statistics_text):
    arms = ["MEMIT", Arm("ENCORE", {"layers": "77"}), "EMMET"]
    sides = list(edit_with_each(llama, CITIES[:1], arms, known="edit", statistics_text=statistics_text))
    assert [side.error is None for side in sides] == [True, False, True]
    assert "77" in sides[1].error and sides[1].session is None and not sides[1].reports
    assert sides[2].session.n_edits == 1


def test_a_stop_in_the_middle_keeps_the_sides_before(llama, statistics_text):
    class Stopped(Exception):
        pass

    def stop(label: str, progress) -> None:
        if label == "EMMET":
            raise Stopped

    done = []
    with pytest.raises(Stopped):
        for side in edit_with_each(
            llama, CITIES[:1], FOUR, known="edit", statistics_text=statistics_text, on_progress=stop
        ):
            done.append(side)
    assert [side.label for side in done] == ["MEMIT"] and done[0].session.n_edits == 1


def test_what_the_model_says_already_is_skipped_or_refused_by_all(llama, statistics_text):
    prompt = CITIES[0].text
    session = EditSession(llama, statistics_text=statistics_text)
    with session.pristine() as lm:
        ids = lm.tokenizer(prompt, return_tensors="pt").input_ids
        token = int(lm.model(ids).logits[0, -1].argmax())
    said = llama.tokenizer.decode([token]).strip()
    if not said:
        pytest.skip("the tiny model says a blank here")
    known = Fact(CITIES[0].subject, CITIES[0].prompt, said)
    found = compare_edits(llama, [known, CITIES[1]], FOUR, known="skip", statistics_text=statistics_text)
    skipped = {side.reports[0].edited[0].stopped for side in found.sides}
    if skipped == {"already said"}:
        assert {side.session.n_edits for side in found.sides} == {1}
        with pytest.raises(InputError, match="says already"):
            compare_edits(llama, [known], FOUR, statistics_text=statistics_text)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "0 methods"),
        (["MEMIT"] * 9, "9 methods"),
        (["MEMIT", "MEMIT"], "there twice"),
        (["MEMT"], "MEMT"),
        ([Arm("MEMIT", {"lamda": 1})], "lamda"),
    ],
)
def test_bad_sides_are_refused_before_anything_is_done(methods, said, llama):
    assert said in refusal(arms_of, methods)
    assert said in refusal(compare_edits, llama, CITIES[:1], methods)


def test_every_row_of_the_table_can_be_compared(gpt2, statistics_text, searches):
    papers = [name for name, row in METHODS.items() if row.source == PAPER]
    found = compare_edits(gpt2, CITIES[:1], papers, known="edit", statistics_text=statistics_text)
    assert len(found.sides) == len(papers) and not any(side.error for side in found.sides) and searches == [2]
