"""F, the second moment of gradients of general text, and what it foretells, on tiny models."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CORPUS, DEFAULTS
from torch.nn import functional

from encore_core.editing import foretold_damage, gradient_moments
from encore_core.editing.covariance import KeySums, in_batches, windows_of
from encore_core.editing.gradient_moments import collect, file_beside, gradients_of
from encore_core.editing.session import EditSession
from encore_core.editing.update_rule import solve

TEXT = "\n\n".join(CORPUS)


@pytest.fixture(params=["gpt2", "llama-tied"])
def lm(request):
    return request.getfixturevalue(request.param.replace("-", "_"))


def loss_of(lm, ids: list[int], layer: int, column: int, delta: torch.Tensor) -> float:
    """Summed next-token loss of one text with δ added to a block's output at one token; plain passes of the library."""

    def hook(module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, column] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = lm.blocks[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    handle.remove()
    return float(functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))


def test_gradients_agree_with_finite_differences(lm):
    windows = windows_of(lm, TEXT, 10**6)
    rows = [windows[0], windows[5][:4]]
    found = gradients_of(lm, [0, 1], rows, 0)
    generator = torch.Generator().manual_seed(0)
    places = [(r, c) for r, row in enumerate(rows) for c in range(len(row) - 1)]
    assert all(len(G) == len(places) for G in found.values())
    for layer, G in found.items():
        for index in (0, len(places) // 2, len(places) - 1):
            row, column = places[index]
            direction = torch.randn(lm.d_model, generator=generator)
            low, high = (loss_of(lm, rows[row], layer, column, e * direction) for e in (-5e-3, 5e-3))
            assert (high - low) / 1e-2 == pytest.approx(float(G[index] @ direction), rel=2e-2, abs=3e-3)


def test_F_is_the_mean_over_predicting_tokens_behind_those_in_front(lm):
    windows = windows_of(lm, TEXT, 400)
    n_front = 1 if lm.tokenizer("x")["input_ids"][0] == lm.tokenizer.bos_token_id else 0
    F = collect(lm, [1], windows)[1]
    each = [gradients_of(lm, [1], [window], n_front)[1].double() for window in windows]
    expected = sum(G.T @ G for G in each) / sum(map(len, each))
    assert torch.allclose(F.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert float(torch.linalg.eigvalsh(F.double()).min()) > -1e-5 * float(F.trace())


def test_what_was_collected_is_kept_beside_C0(llama_tied, monkeypatch):
    session = EditSession(llama_tied, settings=DEFAULTS | {"search": "natural_gradient"})
    session.prepare()
    F, C0_file = session.metric(), session.statistics_files[1]
    assert file_beside(C0_file).is_file()
    llama_tied.shared.clear()
    monkeypatch.setattr(gradient_moments, "collect", lambda *_: pytest.fail("collected again"))
    assert torch.equal(EditSession(llama_tied, settings=DEFAULTS | {"search": "natural_gradient"}).metric(), F)


def test_a_damaged_file_is_collected_again(llama_tied, tmp_path):
    file = tmp_path / "layer1-0123456789ab-500.safetensors"
    gradient_moments.save(file_beside(file), torch.full((3, 3), torch.nan), "some text", 5)
    found = gradient_moments.gradient_moments(llama_tied, {1: file})[1]
    assert found.shape == (llama_tied.d_model,) * 2 and bool(torch.isfinite(found).all())
    assert torch.equal(gradient_moments.load(file_beside(file), llama_tied.d_model), found)


def test_the_foretold_damage_is_one_quadratic_form():
    generator = torch.Generator().manual_seed(0)
    d_model, d_mlp, n = 12, 20, 5
    F, C0 = (x @ x.T for x in (torch.randn(d, 40, generator=generator).double() for d in (d_model, d_mlp)))
    K, R = (torch.randn(d, n, generator=generator).double() for d in (d_mlp, d_model))
    P = torch.linalg.inv(C0)
    update = solve(R, K, P @ K, 1.0)
    change = update.delta()
    expected = 0.5 * float(torch.trace(F @ change @ C0 @ change.T))
    assert foretold_damage.of_change(F, change, C0) == pytest.approx(expected, rel=1e-10)
    # A single fact that is met exactly, with the least disturbance of C0: what `of_facts` says.
    k, delta = K[:, :1], R[:, :1]
    exact = delta @ (P @ k).T / float(k.T @ P @ k)
    alone = foretold_damage.of_facts(F, delta.T, P, k)
    assert float(alone[0]) == pytest.approx(foretold_damage.of_change(F, exact, C0), rel=1e-10)


def test_it_foretells_how_far_text_is_moved(llama_tied):
    """Random changes of one matrix, of four sizes: KL(before ‖ after) per token is near what is foretold."""
    lm = llama_tied
    windows = windows_of(lm, TEXT, 10**6)
    sums = KeySums(lm, [1], in_batches(windows))
    while sums.step():
        pass
    C0, F = sums.moments()[1], collect(lm, [1], windows)[1]

    @torch.no_grad()
    def log_probs() -> torch.Tensor:
        logits = [lm.model(input_ids=torch.tensor([window]), use_cache=False).logits[0, :-1] for window in windows]
        return torch.cat(logits).double().log_softmax(-1)

    generator = torch.Generator().manual_seed(0)
    parameter, before = lm.parameter(1), log_probs()
    original, foretold, measured = parameter.data.clone(), [], []
    for size in (0.02, 0.05, 0.1, 0.2):
        change = torch.randn(lm.d_model, lm.d_mlp, generator=generator)
        change *= size * float(original.norm()) / float(change.norm())
        foretold.append(foretold_damage.of_change(F, change, C0))
        parameter.data += lm.oriented(1, change)
        measured.append(float((before.exp() * (before - log_probs())).sum(-1).mean()))
        parameter.data.copy_(original)
    assert measured == sorted(measured)
    ratios = [one / other for one, other in zip(measured, foretold, strict=True)]
    assert all(1 / 3 < ratio < 3 for ratio in ratios), ratios
