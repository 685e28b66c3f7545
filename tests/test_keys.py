"""Keys and states held to full forward passes of single prompts, made anew after every layer's edit."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FACTS, PREFIXES, Snapshot, hooks_and_patches

from encore_core.editing import keys as keys_module
from encore_core.editing.keys import KeyReader


@torch.no_grad()
def seen_at_subject(lm, module, fact, prefix: str, output: bool) -> torch.Tensor:
    """What enters or leaves a module at the subject's last token, from one full pass over the untouched text."""
    text = f"{prefix}. {fact.text}" if prefix else fact.text
    last = text.rindex(fact.text) + fact.subject_span[1] - 1
    encoding = lm.tokenizer(text, return_offsets_mapping=True)
    index = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if a <= last < b][-1]
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, out: seen.append(out if output else inputs[0]))
    lm.model(input_ids=torch.tensor([encoding["input_ids"]]), use_cache=False)
    handle.remove()
    hidden = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return hidden.reshape(-1, hidden.shape[-1])[index].double()


def naive_keys(lm, facts, prefixes, layer) -> torch.Tensor:
    columns = []
    for fact in facts:
        plain, *others = (seen_at_subject(lm, lm.down_projections[layer], fact, p, False) for p in ("", *prefixes))
        columns.append((plain + sum(others) / len(others)) / 2 if others else plain)
    return torch.stack(columns, dim=1)


def naive_states(lm, facts, layer) -> torch.Tensor:
    return torch.stack([seen_at_subject(lm, lm.blocks[layer], fact, "", True) for fact in facts], dim=1)


def edit_a_little(lm, layer, generator) -> None:
    weight = lm.parameter(layer)
    weight.data = weight.data + 0.3 * weight.data.std() * torch.randn(weight.shape, generator=generator)


LAYERS = {"from the first": (0, 1, 2), "with gaps": (0, 2), "higher up": (1, 2), "one": (2,)}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("prefixes", [PREFIXES, ()], ids=["prefixes", "plain"])
def test_keys_and_states_follow_the_edits(lm, layers, prefixes, monkeypatch):
    """Every layer is read with the ones below it already edited; rows are run in several chunks."""
    monkeypatch.setattr(keys_module, "tokens_of_pass", lambda lm: 12)
    generator = torch.Generator().manual_seed(0)
    originals = {layer: lm.parameter(layer).data for layer in layers}
    try:
        reader = KeyReader(lm, FACTS, prefixes, layers)
        assert len(reader.chunks) > 1
        for number, layer in enumerate(layers):
            K, h = reader.keys(layer), reader.states(layer)
            assert (K.shape, h.shape) == ((lm.d_mlp, len(FACTS)), (lm.d_model, len(FACTS)))
            assert K.dtype == h.dtype == torch.float64
            torch.testing.assert_close(K, naive_keys(lm, FACTS, prefixes, layer), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(h, naive_states(lm, FACTS, layers[-1]), rtol=1e-4, atol=1e-5)
            before = naive_keys(lm, FACTS[:1], (), layers[-1])
            edit_a_little(lm, layer, generator)
            if layer != layers[-1]:  # the edit can be felt above, so a stale reading would be noticed
                assert not torch.allclose(before, naive_keys(lm, FACTS[:1], (), layers[-1]), atol=1e-3)
            if number + 1 < len(layers):
                reader.advance(layer, layers[number + 1])
    finally:
        for layer, original in originals.items():
            lm.parameter(layer).data = original


@pytest.mark.parametrize("facts", [FACTS[:1], FACTS[:2], (FACTS[2], FACTS[2])], ids=["one", "two", "twice the same"])
def test_small_batches(lm, facts):
    reader = KeyReader(lm, facts, PREFIXES, (1,))
    torch.testing.assert_close(reader.keys(1), naive_keys(lm, facts, PREFIXES, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reader.states(1), naive_states(lm, facts, 1), rtol=1e-4, atol=1e-5)


def test_a_failing_pass_leaves_no_hook(lm):
    before, tidy = Snapshot.of(lm), hooks_and_patches(lm)
    reader = KeyReader(lm, FACTS, PREFIXES, (1, 2))

    def fail(*_):
        raise KeyboardInterrupt

    handle = lm.down_projections[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        reader.keys(1)
    handle.remove()
    assert hooks_and_patches(lm) == tidy
    assert before.holds(lm)
