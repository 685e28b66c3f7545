"""The estimate of memory: held to what tensors really take, and to what is said when there is too little."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import tiny_families
import torch
from refusals import refusal
from tiny_models import CITIES, PREFIXES
from transformers import GPT2Config, LlamaConfig

from encore_core.editing import group_size
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.fast_target_pass import FastPass
from encore_core.editing.pass_choice import starts_of_fast_pass
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import TargetSettings, evaluate
from encore_core.editing.target_rows import Example
from encore_core.methods import override, settings_for
from encore_core.models import checkpoint, memory
from encore_core.models.editable import load_model, wrap
from encore_core.models.memory import MemoryEstimate, Sizes, bytes_of_matrices, estimate, gigabytes

LLAMA_3_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256,
)  # fmt: skip


def settings_of(config, layers: tuple[int, ...]):
    usual = settings_for(
        "ENCORE", model_type="none", n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_vocab=0
    )
    return override(usual, {"layers": layers}, config.num_hidden_layers)


@pytest.mark.parametrize("family", ["GPT-2", "Llama 3", "Gemma 2", "Phi-3", "Gemma 3 (text and images)", "Qwen 2.5"])
def test_weights_and_sizes_are_those_of_the_model(family):
    tiny = tiny_families.FAMILIES[family]
    model = tiny_families.random_model(tiny)
    lm = tiny_families.made(family)
    sizes = Sizes.of_config(tiny_families.config_of(tiny))
    assert sizes == Sizes.of_model(model, lm.parts)
    assert (sizes.n_layers, sizes.d_model, sizes.d_mlp, sizes.n_vocab) == (
        lm.n_layers, lm.d_model, lm.d_mlp, len(tiny_families.tokenizer()),
    )  # fmt: skip
    settings = settings_of(SimpleNamespace(num_hidden_layers=4, hidden_size=32), (1, 2))
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        found = estimate(tiny_families.config_of(tiny), dtype, settings)
        assert found.weights == size * sum(parameter.numel() for parameter in model.parameters())


def test_a_large_model_by_hand():
    """Llama-3-8B: nothing of its 16 GB is allocated to find that out."""
    before = psutil.Process().memory_info().rss
    found = estimate(LLAMA_3_8B, torch.bfloat16, settings_of(LLAMA_3_8B, (4, 5, 6, 7, 8)))
    assert psutil.Process().memory_info().rss - before < 2e8
    assert found.weights == 2 * 8_030_261_248
    assert found.matrices == 2 * 5 * 4096 * 14336 * (4 + 2)
    assert found.statistics == 2 * 5 * 14336**2 * 8
    assert found.total == found.weights + found.editing == sum(found.parts.values())
    assert str(found).startswith(f"{found.total / 1e9:.1f} GB (weights 16.1 GB, edited matrices 3.5 GB, key statis")


def test_what_it_depends_on():
    few, many = (estimate(LLAMA_3_8B, torch.bfloat16, settings_of(LLAMA_3_8B, (6, 7)), size) for size in (1, 100))
    assert few.targets < many.targets and few.statistics == many.statistics
    late = estimate(LLAMA_3_8B, torch.bfloat16, settings_of(LLAMA_3_8B, (28, 29)))
    assert late.targets < many.targets / 3  # few blocks above
    one = estimate(LLAMA_3_8B, torch.bfloat16, settings_of(LLAMA_3_8B, (7,)))
    assert one.matrices == many.matrices / 2
    pushing = estimate(LLAMA_3_8B, torch.bfloat16, replace(settings_of(LLAMA_3_8B, (6, 7)), pushes=2), 100)
    assert pushing.matrices == many.matrices * 3 / 2
    single = estimate(LLAMA_3_8B, torch.float32, settings_of(LLAMA_3_8B, (6, 7)))
    assert single.weights == 2 * many.weights and single.statistics == many.statistics


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.5), (torch.bfloat16, 0.0)])
def test_products_in_bfloat16_hold_matrices_twice(dtype, share):
    """Those of 24 of 32 blocks and the output matrix, at half the size; not where they are in bfloat16 already."""
    plain = settings_of(LLAMA_3_8B, (6, 7))
    without, found = (estimate(LLAMA_3_8B, dtype, each) for each in (plain, replace(plain, bfloat16=True)))
    assert found.weights == without.weights
    extra = found.targets - without.targets
    assert extra == pytest.approx(share * without.weights * 24 / 32, rel=0.05)


@pytest.mark.parametrize("family", ["GPT-2", "Llama 3", "Gemma 2", "Phi-3", "GPT-NeoX, Pythia", "OLMo 2", "GPT-J"])
def test_activations_are_right_within_a_factor_of_two(family):
    """Against what autograd keeps for a backward pass: of 16 tokens more, in blocks of a usual shape."""
    tiny = tiny_families.FAMILIES[family]
    wide = {"n_inner": 512, "n_embd": 128, "rotary_dim": 16} if "n_embd" in tiny.settings else {
        "hidden_size": 128, "intermediate_size": 352, "head_dim": 32
    }  # fmt: skip
    wide = {name: value for name, value in wide.items() if name in ("hidden_size", "intermediate_size", "n_inner",
            "n_embd") or name in tiny.settings}  # fmt: skip
    if family == "Phi-3":
        wide["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    if family == "Gemma 2":
        wide["head_dim"] = 32
    lm = targets_model(tiny, wide)
    saved: dict[int, tuple[int, torch.Tensor]] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in lm.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    settings = TargetSettings(1, 0.1, 1.0, 0.5, 0.06, True, 1)
    examples = Example.of_facts(lm, CITIES, PREFIXES)
    per_token = []
    for layer in (1, 2):  # the difference is one block
        starts = starts_of_fast_pass(lm, layer, examples, settings)
        forward = FastPass(lm, layer, examples, starts, packed=lm.checked_paths[layer] == "packed")
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            evaluate(forward, torch.zeros_like(forward.h).requires_grad_(), None, settings)
        n_tokens = int(forward.tails[0].mask.sum() if forward.packed else forward.tails[0].mask.numel())
        per_token.append(sum(size for size, _ in saved.values()) / n_tokens)
    expected = Sizes.of_model(lm.model, lm.parts).saved_per_token(1) * 4
    assert expected / 2 < per_token[0] - per_token[1] < 2 * expected


def targets_model(tiny, wide):
    return wrap(
        tiny_families.random_model(replace(tiny, settings=tiny.settings | wide)), tiny_families.tokenizer(), "x"
    )


def test_what_a_session_holds_is_in_it(llama, statistics_text):
    """Matrices while a batch is worked on, and P before and after it is a session's own."""
    settings = {"layers": (1, 2), "lambda_p": 0.01, "lambda_n": 0.001, "steps": 2, "statistics_tokens": 500}
    session = EditSession(llama, "ENCORE", settings=settings, statistics_text=statistics_text)
    found = estimate(llama.model.config, llama.dtype, session.settings, batch_size=3)
    for _ in range(6):  # enough batches that P is folded
        session.edit(CITIES, known="edit")
    starts = {P.start.data_ptr(): P.start.nbytes for P in session._contents.preservation.values()}
    shared = {t.data_ptr(): t.nbytes for t in llama.shared.values() if isinstance(t, torch.Tensor)}
    assert all(P.owns_start for P in session._contents.preservation.values())
    assert sum(starts.values()) * 2 == found.statistics or sum(starts.values()) * 2 < found.statistics
    assert set(starts) & set(shared) == set()
    assert 2 * sum(matrix.nbytes for matrix in session.matrices().values()) == found.matrices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["ENCORE", "CrispEdit"])
def test_the_sets_of_matrices_that_a_batch_holds(gpt2, statistics_text, monkeypatch, method, dtype):
    """The session's, its draft and, where matrices are fine-tuned, those that are worked on."""
    lm = wrap(copy.deepcopy(gpt2.model).to(dtype), gpt2.tokenizer, "tiny")
    session = EditSession(lm, method, settings={"layers": (0, 1), "steps": 1, "statistics_tokens": 500},
                          statistics_text=statistics_text, hold="matrices")  # fmt: skip
    session.edit(CITIES[:1], known="edit", measure=False)
    sets, copied = [session._contents.matrices.held], Sums.copy
    monkeypatch.setattr(Sums, "copy", lambda sums: sets.append(copied(sums)) or sets[-1])
    session.edit(CITIES[1:], known="edit", measure=False)
    tensors = {id(t): t for sums in sets for t in (*sums.exact.values(), *sums.run.values())}
    found = estimate(lm.model.config, dtype, session.settings).matrices
    assert sum(tensor.nbytes for tensor in tensors.values()) == found
    assert found == len(sets) * bytes_of_matrices(dtype, 2, lm.d_model, lm.d_mlp)


# -- too little --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    llama.save(tmp_path)
    return tmp_path


def with_memory(monkeypatch, available: int, total: int | None = None) -> None:
    real = psutil.virtual_memory()
    found = real._replace(available=available, total=total or real.total)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


def test_a_model_that_does_not_fit(llama, folder, monkeypatch):
    """Said before a weight is read, part by part."""
    size = sum(parameter.numel() * 4 for parameter in llama.model.parameters())
    with_memory(monkeypatch, size - 1)
    monkeypatch.setattr(checkpoint.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    message = refusal(load_model, str(folder), device="cpu")
    assert f"(weights {gigabytes(size)}, edited matrices " in message
    assert f"in float32 on cpu, which has {gigabytes(size - 1)} free; choose bfloat16" in message


def test_a_model_that_fits_and_cannot_be_edited(llama, folder, monkeypatch, caplog):
    size = sum(parameter.numel() * 4 for parameter in llama.model.parameters())
    with_memory(monkeypatch, size + 1)
    assert load_model(str(folder), device="cpu").fingerprint == llama.fingerprint
    assert "can be loaded, but editing it needs" in caplog.text


def test_groups_of_facts_fit_the_memory(llama, monkeypatch):
    """Half of what the weights leave, in powers of two; always at least a few tokens, and no more than are of use."""
    sizes = Sizes.of_model(llama.model, llama.parts)
    per_token = sizes.saved_per_token(llama.n_layers - 2) * 4
    for room, expected in ((2**40, memory.CPU_TOKENS), (2 * per_token * 1000, 512), (1, group_size.LEAST_TOKENS)):
        with_memory(monkeypatch, 1, sizes.n_weights * 4 + room)
        assert group_size.default_max_tokens(llama, 1) == expected
    with_memory(monkeypatch, 1, 2 * per_token * 1000)
    monkeypatch.setattr(llama, "offloaded", True)  # its weights are elsewhere, and it is run block by block
    assert group_size.default_max_tokens(llama, 1) == memory.CPU_TOKENS


def test_sizes_as_people_write_them():
    assert [gigabytes(n) for n in (16_060_000_000, 150_000_000, 23_000_000, 1234)] == [
        "16.1 GB",
        "0.1 GB",
        "23 MB",
        "0.1 MB",
    ]
    found = MemoryEstimate(1_000_000_000, 200_000_000, 3_000_000, 0)
    assert str(found) == "1.2 GB (weights 1.0 GB, edited matrices 0.2 GB, key statistics 3 MB, targets 0.1 MB)"
    assert found.editing == 203_000_000


def test_a_model_that_cannot_be_edited_has_no_estimate():
    from transformers import MambaConfig

    config = MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=100)
    assert "attention" in refusal(estimate, config, torch.float32, settings_of(GPT2Config(), (1,)))
