"""What sublayers add to the stream, in every family: held to what is missing when a block's MLP is silenced."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from refusals import refusal
from tiny_models import CITIES, Snapshot, hooks_and_patches, metaspace_tokenizer

from encore_core.forward.prompts import encode, pad
from encore_core.forward.tracing import run
from encore_core.measures import sublayers
from encore_core.measures.sublayers import measure_contributions, sublayer_outputs
from encore_core.models.editable import EditableModel, wrap

TEXTS = ("The capital of France is Paris.", "Kenya", "I live in Tokyo and therefore I know the language of Japan.")

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 96}
GROUPED = {"num_key_value_heads": 2}
GEMMA = {**SIZES, **GROUPED, "head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 12}
FAMILIES = {
    "mistral": ("Mistral", {**SIZES, **GROUPED}),
    "qwen2": ("Qwen2", {**SIZES, **GROUPED}),
    "side by side, one norm (GPT-J)": ("GPTJ", {**SMALL, "rotary_dim": 4}),
    "side by side, one norm (Phi)": ("Phi", SIZES),
    "side by side, two norms (GPT-NeoX)": ("GPTNeoX", {**SIZES, "use_parallel_residual": True}),
    "one after the other (GPT-NeoX)": ("GPTNeoX", {**SIZES, "use_parallel_residual": False}),
    "side by side, added in place (Falcon)": ("Falcon", {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "side by side (Cohere)": ("Cohere", {**SIZES, **GROUPED}),
    "post-norms (Gemma 2)": ("Gemma2", GEMMA),
    "post-norms (Gemma 3)": ("Gemma3", GEMMA),
    "post-norms alone (OLMo 2)": ("Olmo2", {**SIZES, **GROUPED}),
    "post-norms (GLM 4)": ("Glm4", {**SIZES, **GROUPED, "head_dim": 12}),
    "a constant factor (Granite)": ("Granite", {**SIZES, **GROUPED, "residual_multiplier": 0.22}),
}


def made(family: str, settings: dict, **more) -> EditableModel:
    tokenizer = metaspace_tokenizer()
    config_class = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = config_class(vocab_size=len(tokenizer), initializer_range=0.2, **special, **settings, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        # Norms and biases that do nothing could be left out unnoticed.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return wrap(model, tokenizer, family)


@pytest.fixture(scope="module", params=["trained gpt2", "trained llama", "trained llama-tied", *FAMILIES])
def any_lm(request) -> EditableModel:
    if request.param.startswith("trained "):
        return request.getfixturevalue(request.param.removeprefix("trained ").replace("-", "_"))
    return made(*FAMILIES[request.param])


@torch.no_grad()
def streams(lm, ids) -> list[torch.Tensor]:
    """The stream entering the first block and leaving every block, each (n_tokens, d_model), by plain hooks."""
    seen: list[torch.Tensor] = []

    def store(value):
        seen.append((value[0] if isinstance(value, tuple) else value)[0].clone())

    handles = [lm.blocks[0].register_forward_pre_hook(lambda _, args: store(args))]
    handles += [block.register_forward_hook(lambda _, args, output: store(output)) for block in lm.blocks]
    lm.model(torch.tensor([list(ids)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def added_by_sublayers(lm, ids) -> torch.Tensor:
    """(n_sublayers, n_tokens, d_model). With a block's MLP matrix at zero, the block adds its attention alone."""
    before = streams(lm, ids)
    parts = [before[0]]
    for layer in range(lm.n_layers):
        module = lm.down_projections[layer]
        kept = {name: parameter.data for name, parameter in module.named_parameters()}
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)
        try:
            silenced = streams(lm, ids)[layer + 1]
        finally:
            for name, parameter in module.named_parameters():
                parameter.data = kept[name]
        parts += [silenced - before[layer], before[layer + 1] - silenced]
    return torch.stack(parts)


def test_outputs_are_what_is_added(any_lm):
    """Each sublayer of each block, and nothing at padding."""
    rows = [encode(any_lm, text).ids for text in TEXTS]
    batch = pad(any_lm, rows)
    with torch.no_grad(), sublayer_outputs(any_lm, batch.mask.bool()) as outputs:
        h_L = run(any_lm, batch.ids, batch.mask, stop=any_lm.n_layers)[batch.mask.bool()]
    expected = torch.cat([added_by_sublayers(any_lm, row) for row in rows], dim=1)
    scale = float(expected.abs().max())
    assert len(outputs) == len(expected) == 2 * any_lm.n_layers + 1
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(torch.stack(outputs).sum(0), h_L, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("max_tokens", [12, 2048])
def test_contributions(any_lm, monkeypatch, max_tokens):
    """The definition, from the oracle's parts, whatever is batched together."""
    monkeypatch.setattr(sublayers, "MAX_TOKENS", max_tokens)
    found = measure_contributions(any_lm, TEXTS)
    o = torch.cat([added_by_sublayers(any_lm, encode(any_lm, text).ids) for text in TEXTS], dim=1).double()
    h_L = o.sum(0)
    norms = o.norm(dim=-1)
    shares = (norms / norms.sum(0)).mean(1)
    signed = ((o * h_L).sum(-1) / h_L.square().sum(-1)).mean(1)
    assert found.n_tokens == o.shape[1]
    assert [part.share for part in found.parts] == pytest.approx(shares.tolist(), rel=1e-4, abs=1e-6)
    assert [part.signed_share for part in found.parts] == pytest.approx(signed.tolist(), rel=1e-3, abs=1e-5)
    assert sum(part.share for part in found.parts) == pytest.approx(1, abs=1e-9)
    assert sum(part.signed_share for part in found.parts) == pytest.approx(1, abs=1e-4)
    assert found.missing < 1e-5


def test_an_edit_raises_the_share_of_its_layers(llama, new_session):
    before = measure_contributions(llama, TEXTS)
    session = new_session(llama, lambda_p=1e-5, clamp=4.0)
    session.edit(CITIES)
    with session.edited():
        after = measure_contributions(llama, [fact.text for fact in CITIES])
    plain = measure_contributions(llama, [fact.text for fact in CITIES])
    edited = {f"MLP {layer}" for layer in session.settings.layers}

    def share(contributions):
        return sum(part.share for part in contributions.parts if part.label in edited)

    assert share(after) > share(plain)
    assert measure_contributions(llama, TEXTS) == before


def test_bfloat16_is_close(llama):
    precise = measure_contributions(llama, TEXTS)
    rough = measure_contributions(wrap(copy.deepcopy(llama.model).to(torch.bfloat16), llama.tokenizer, "half"), TEXTS)
    assert 1e-4 < rough.missing < 0.05
    for one, other in zip(precise.parts, rough.parts, strict=True):
        assert one.share == pytest.approx(other.share, abs=0.01)


def test_a_model_that_broke_is_measured_as_that(gpt2):
    """NaN is what an edited model can come to; it is no reason to say that the family is not supported."""
    parameter = gpt2.parameter(1)
    with gpt2.matrices_replaced({1: torch.full_like(parameter, float("nan"))}):
        found = measure_contributions(gpt2, TEXTS)
    assert all(part.share != part.share for part in found.parts)


def test_blocks_that_add_something_else_are_refused():
    """BLOOM's attention returns the stream with its own part already in it."""
    lm = made("Bloom", {"hidden_size": 48, "n_layer": 2, "n_head": 4})
    tidy = hooks_and_patches(lm)
    assert "do not add up to the residual stream" in refusal(measure_contributions, lm, TEXTS)
    assert hooks_and_patches(lm) == tidy


def test_more_than_one_stream_is_refused(llama):
    handle = llama.blocks[0].register_forward_pre_hook(lambda _, args: (args[0][None], *args[1:]))
    try:
        assert "more than one residual stream" in refusal(measure_contributions, llama, TEXTS)
    finally:
        handle.remove()


def test_texts_that_cannot_be_used(gpt2, monkeypatch):
    assert "no text" in refusal(measure_contributions, gpt2, [])
    assert "''" in refusal(measure_contributions, gpt2, ["The", ""])
    n_bytes = 11 * gpt2.d_model * 4
    monkeypatch.setattr(sublayers, "MAX_BYTES", 5 * n_bytes)
    n_tokens = len(encode(gpt2, TEXTS[0]).ids)
    message = refusal(measure_contributions, gpt2, ["The", TEXTS[0]])
    assert f"{n_tokens} tokens" in message and "at most 5 " in message


def test_the_model_is_left_as_it_was(any_lm):
    weights, tidy = Snapshot.of(any_lm), hooks_and_patches(any_lm)
    measure_contributions(any_lm, TEXTS)
    assert weights.holds(any_lm)
    assert hooks_and_patches(any_lm) == tidy
