"""Facts that an update leaves unsaid are pushed on: one update per layer of a larger residual, and nothing else."""

from __future__ import annotations

import pytest
import torch
from test_editor import initial, matrices, same
from tiny_models import CITIES, FACTS

from encore_core.editing.edit_file import edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.keys import KeyReader
from encore_core.editing.retraction import RetractionLook
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import encode_contexts, on_sink
from encore_core.measures.answers import answer_probabilities, questions

STIFF = {"lambda_p": 1.0, "layers": (0, 1)}
"""Settings under which the tiny models say some of the facts after the update, and some not."""


def state_and_answer(lm, fact) -> tuple[torch.Tensor, bool]:
    """h after block 1 at the subject, and whether the new answer is the most probable one: a run of the whole model."""
    seen = []
    handle = lm.blocks[1].register_forward_hook(
        lambda module, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    row = encode_contexts(lm, [fact], ())[0][0]
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([row.ids]))
        handle.remove()
        said = answer_probabilities(lm, questions([fact]))[0].said
    return seen[0].reshape(-1, lm.d_model)[row.lookup].double(), said


@pytest.mark.parametrize("pushes", [1, 3])
def test_the_update_is_that_of_the_larger_residual(lm, new_session, pushes):
    facts = [*CITIES, FACTS[3]]
    plain, session = new_session(lm, **STIFF), new_session(lm, **STIFF, pushes=pushes)
    targets = plain.find_targets(facts)
    P = {layer: of_layer.dense() for layer, of_layer in initial(plain).items()}
    for one in (plain, session):
        one.edit(facts, known="edit", targets=targets)
    W = {layer: lm.oriented(layer, W).double() for layer, W in plain.matrices().items()}
    K = {layer: update.K for layer, update in plain._contents.updates[0].items()}
    said_first = None
    for _ in range(pushes):
        stored = {layer: lm.oriented(layer, W[layer]).float() for layer in W}
        with plain.pristine(), lm.matrices_replaced(stored):
            states, said = zip(*(state_and_answer(lm, fact) for fact in facts), strict=True)
        said_first = said if said_first is None else said_first
        missing = torch.stack([t.z.double() - h for t, h in zip(targets, states, strict=True)], dim=1)
        R = missing * (~torch.tensor(said)).double() / len(W)
        for layer in W:
            inner = torch.linalg.inv(torch.linalg.inv(P[layer]) + K[layer] @ K[layer].T)
            W[layer] = W[layer] + R @ K[layer].T @ inner
    assert not all(said_first)
    for layer, found in session.matrices().items():
        moved = (lm.oriented(layer, found).double() - W[layer]).norm()
        assert float(moved / (W[layer] - lm.matrix(layer)).norm()) < 1e-4
    assert not same(matrices(plain), matrices(session))


def test_a_fact_that_begins_with_its_subject_is_pushed_from_where_it_was_edited(gpt2, new_session):
    """The first token says nothing of its own, so such a fact is edited after a prefix."""
    fact = Fact("Rome", "{} is a city in", "Peru", "Italy")
    assert on_sink(gpt2, [fact])
    session = new_session(gpt2, **STIFF, pushes=3)
    [edited] = session.edit([fact], known="edit").edited
    with session.edited():
        h = KeyReader(gpt2, [fact], session.prefixes, (0, 1)).states(0)[:, 0]
    left = float((edited.target.z.double() - h).norm() / (edited.target.z - edited.target.h).norm())
    assert left < 0.5, left


def test_what_is_taken_back_is_not_pushed(llama, new_session, monkeypatch):
    """Setting back asks for the model's own answer: that the new one is not said is as it should be."""
    asked = []
    monkeypatch.setattr(
        "encore_core.editing.retraction.add_updates",
        lambda lm, facts, prefixes, settings, *rest: asked.append(settings.pushes) or {},
    )
    session = new_session(llama, "MEMIT", **STIFF, pushes=2)
    session.edit(CITIES, known="edit")
    monkeypatch.setattr(RetractionLook, "not_back", lambda self, draft: self.facts)
    session.retract([CITIES[0]])
    assert asked == [0]


def test_more_is_said_and_what_is_said_costs_nothing_more(llama, new_session):
    facts = [*CITIES, FACTS[3]]
    plain, session = (new_session(llama, **STIFF, pushes=pushes) for pushes in (0, 3))
    targets = plain.find_targets(facts)
    probability = []
    for one in (plain, session):
        one.edit(facts, known="edit", targets=targets)
        with one.edited() as lm:
            probability.append([answer.probability for answer in answer_probabilities(lm, questions(facts))])
    assert probability[1][3] > probability[0][3]
    easy = [new_session(llama, lambda_p=1e-4, pushes=pushes) for pushes in (0, 3)]
    for one in easy:
        one.edit(CITIES[:1], known="edit")
        with one.edited() as lm:
            assert answer_probabilities(lm, questions(CITIES[:1]))[0].said
    assert same(*map(matrices, easy))


@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_a_batch_is_replayed_undone_and_continued_to_the_bit(llama, new_session, tmp_path, hold):
    session = new_session(llama, **STIFF, pushes=2, hold=hold)
    session.edit(CITIES[:2], known="edit")
    first = matrices(session)
    session.edit([CITIES[2], FACTS[3]], known="edit")
    both = matrices(session)
    write_edit_file(tmp_path / "edits.safetensors", edit_file_of(session), {})
    back = read_edit_file(tmp_path / "edits.safetensors")
    assert same(matrices(back.session_on(llama, statistics_text=session.statistics_text)), both)
    session.undo()
    assert same(matrices(session), first)
    session.edit([CITIES[2], FACTS[3]], known="edit")
    assert same(matrices(session), both)


@pytest.mark.parametrize("method", ["SPHERE", "LyapLock", "UltraEdit", "CrispEdit"])
def test_rows_whose_update_is_another_have_no_pushes(llama, new_session, method):
    with pytest.raises(InputError, match=f"Setting pushes = 2 does not suit {method}"):
        new_session(llama, method, pushes=2)
