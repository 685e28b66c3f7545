"""Packed rows against the same rows padded, run through the family's own attention."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
import transformers
from tiny_models import byte_level_tokenizer

from encore_core.forward.packed_pass import record_packed, run_packed
from encore_core.forward.packing import Packing
from encore_core.forward.prompts import pad
from encore_core.forward.tracing import record_prefix, run
from encore_core.models.editable import EditableModel, wrap

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
FAMILIES = {
    "llama": ("Llama", SMALL),
    "mistral, short window": ("Mistral", SMALL | {"sliding_window": 4}),
    "gemma2, soft-capped, short window": (
        "Gemma2",
        SMALL | {"head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 16},
    ),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}),
    "gpt-neox": ("GPTNeoX", SMALL),
    "qwen3": ("Qwen3", SMALL | {"head_dim": 8}),
    "phi3": ("Phi3", SMALL | {"pad_token_id": 0}),
}
LENGTHS = (5, 9, 1, 7)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request) -> EditableModel:
    name, sizes = FAMILIES[request.param]
    tokenizer = byte_level_tokenizer()
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
        for parameter in model.parameters():  # far from uniform attention, so that every term of it shows
            parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return wrap(model, tokenizer, request.param)


def rows(seed: int, lengths=LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 200, (length,), generator=generator).tolist() for length in lengths]


def alone(lm: EditableModel, ids: list[int]) -> torch.Tensor:
    """Logits of one text, by nothing but the library."""
    return lm.model(torch.tensor([ids])).logits[0]


@torch.no_grad()
def test_whole_rows(family):
    batch = pad(family, rows(0))
    packing = Packing(batch.mask, None)
    logits = packing.unpack(run_packed(family, packing, ids=packing.pack(batch.ids)))
    for found, row in zip(logits, rows(0), strict=True):
        torch.testing.assert_close(found[: len(row)], alone(family, row), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_behind_prefixes(family):
    """A prefix, one of whose rows is empty, another behind it, and rows behind both."""
    parts = [[*rows(1, (4, 2, 6)), []], rows(2), rows(3, (2, 3, 1, 2))]
    prefix = None
    for part in parts[:2]:
        batch = pad(family, [row or [0] for row in part])
        batch.mask[[not row for row in part]] = 0
        packing = Packing(batch.mask, prefix)
        recorded = record_packed(family, packing, ids=packing.pack(batch.ids))
        prefix = recorded if prefix is None else prefix.followed_by(recorded)
    batch = pad(family, parts[2])
    packing = Packing(batch.mask, prefix)
    logits = packing.unpack(run_packed(family, packing, ids=packing.pack(batch.ids)))
    for found, *texts in zip(logits, *parts, strict=True):
        n = len(texts[-1])
        torch.testing.assert_close(found[:n], alone(family, [*chain(*texts)])[-n:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_prefix_recorded_padded_serves_as_well(family):
    if "short window" in family.name:
        pytest.skip("the family's own masks count padding into the window")
    before, batch = pad(family, rows(6, (3, 5, 2, 4))), pad(family, rows(2))
    prefix, _ = record_prefix(family, before.ids, before.mask)
    packing = Packing(batch.mask, prefix)
    found = run_packed(family, packing, ids=packing.pack(batch.ids))
    wanted = run(family, batch.ids, batch.mask, prefix=prefix)[batch.mask.bool()]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_from_a_block_on(family):
    """From the middle of the model to logits at some tokens, behind a prefix: values and gradients."""
    before, own = rows(6, (3, 5, 2, 4)), rows(4)
    at = (torch.tensor([0, 1, 1, 3]), torch.tensor([4, 0, 8, 3]))
    weights = torch.randn(4, family.model.config.vocab_size, generator=torch.Generator().manual_seed(5))

    first, batch = pad(family, before), pad(family, own)
    packing = Packing(first.mask, None)
    with torch.no_grad():
        entering = run_packed(family, packing, ids=packing.pack(first.ids), stop=2)
        below = record_packed(family, packing, ids=packing.pack(first.ids), stop=2)
        above = record_packed(family, packing, start=2, hidden=entering)
        packing = Packing(batch.mask, below)
        hidden = run_packed(family, packing, ids=packing.pack(batch.ids), stop=2)
    packing = Packing(batch.mask, above)
    hidden.requires_grad_()
    found = run_packed(family, packing, start=2, hidden=hidden, logits_at=packing.at(*at))
    (found * weights).sum().backward()
    gradient = packing.unpack(hidden.grad)

    for number, (start, row) in enumerate(zip(before, own, strict=True)):
        ids, mask = torch.tensor([[*start, *row]]), torch.ones(1, len(start) + len(row), dtype=torch.long)
        with torch.no_grad():
            states = run(family, ids, mask, stop=2)
        states.requires_grad_()
        logits = run(family, ids, mask, start=2, hidden=states)[0, len(start) :]
        asked = at[0] == number
        wanted = logits[at[1][asked]]
        torch.testing.assert_close(found[asked], wanted, rtol=1e-4, atol=1e-5)
        if len(wanted):
            (wanted * weights[asked]).sum().backward()
            torch.testing.assert_close(gradient[number, : len(row)], states.grad[0, len(start) :], rtol=1e-3, atol=1e-4)
            assert float(states.grad.abs().max()) > 0
        else:
            assert not gradient[number, : len(row)].any()


def test_places_and_positions():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    packing = Packing(mask, None)
    padded = torch.arange(9).view(3, 3)
    assert packing.pack(padded).tolist() == [0, 1, 3, 6, 7, 8]
    assert packing.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert packing.at(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 2])).tolist() == [1, 2, 5]
    assert torch.equal(packing.unpack(packing.pack(padded))[mask.bool()], padded[mask.bool()])


def test_what_it_cannot_do_it_says(family):
    """Whatever a family hands to attention besides is not silently left out; the model is as before afterwards."""
    batch = pad(family, rows(0))
    packing = Packing(batch.mask, None)
    names = {module.config._attn_implementation for module in family.model.modules() if hasattr(module, "config")}
    block = family.blocks[1]
    forward = block.forward
    block.forward = lambda *args, **kwargs: forward(*args, **kwargs, s_aux=torch.zeros(4))
    try:
        with pytest.raises(TypeError, match="s_aux"):
            run_packed(family, packing, ids=packing.pack(batch.ids))
    finally:
        del block.forward
    assert names == {
        module.config._attn_implementation for module in family.model.modules() if hasattr(module, "config")
    }
