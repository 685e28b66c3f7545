"""Statistics in MEMIT's format: what is imported and exported, and which files are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file

from encore_core.editing import gradient_moments, stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, files_used, second_moments
from encore_core.editing.gradient_moments import file_beside
from encore_core.statistics import npz
from encore_core.statistics.gathering import gather
from encore_core.statistics.request import Request


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# -- importing ---------------------------------------------------------------------------------------------------------


def npz_file(folder: Path, name: str = "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz", **arrays) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def published(d: int, seed: int = 0, count: int = 500) -> dict[str, np.ndarray]:
    """What MEMIT's code writes: the sum of k kᵀ, and of how many tokens."""
    K = np.random.default_rng(seed).standard_normal((count, d)).astype(np.float32)
    return {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        "mom2.count": np.array(count),
        "mom2.mom2": K.T @ K,
        "sample_size": np.array(100_000),
    }


def test_statistics_that_memit_publishes(gpt2, tmp_path, new_session):
    values = published(64)
    found = npz.import_npz(gpt2, npz_file(tmp_path, **values))
    assert (found.layer, found.tokens) == (2, 500)
    C0 = second_moments(gpt2, [2], 1000)[2]
    assert np.allclose(C0.numpy(), values["mom2.mom2"].astype(np.float64) / 500, rtol=1e-6)
    assert torch.equal(C0, C0.T)
    [one] = stored_statistics.stored(gpt2.fingerprint)
    assert one.chosen and one.source.startswith("imported transformer.h.2.") and one.tokens == 500
    # A mean without a count, for a layer that is named.
    mean = npz_file(tmp_path, "mean.npz", mom2=values["mom2.mom2"] / 500)
    assert npz.import_npz(gpt2, mean, 1).tokens == 0
    assert np.allclose(second_moments(gpt2, [1], 1000)[1].numpy(), C0.numpy(), rtol=1e-5, atol=1e-7)
    # And back to the bundled text.
    stored_statistics.forget_choice(gpt2.fingerprint)
    assert files_used(gpt2, [2], 1000)[2] != found.file and found.file.is_file()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("transformer.h.13.mlp.c_proj_float32_mom2_100000.npz", 13),
        ("transformer.h.5.mlp.fc_out_float32_mom2_100000.npz", 5),
        ("model.layers.4.mlp.down_proj_float32_mom2_100000.npz", 4),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h_float32_mom2_100000.npz", 0),
        ("statistics.npz", None),
        ("transformer.h.mlp.npz", None),
    ],
)
def test_the_layer_is_read_from_the_name(name, layer):
    assert npz.layer_in_name(Path(name)) == layer


def changed(**values) -> dict[str, np.ndarray]:
    return published(64) | values


def skewed() -> np.ndarray:
    moment = published(64)["mom2.mom2"].copy()
    moment[0, 1] += 100
    return moment


def with_nan() -> np.ndarray:
    moment = published(64)["mom2.mom2"].copy()
    moment[3, 3] = np.nan
    return moment


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        (changed(**{"mom2.mom2": np.ones((63, 63), np.float32)}), "is 63 × 63; this model's keys have 64"),
        (changed(**{"mom2.mom2": np.ones(64, np.float32)}), "is 64; this model's"),
        (changed(**{"mom2.mom2": skewed()}), "not symmetric"),
        (changed(**{"mom2.mom2": np.zeros((64, 64), np.float32)}), "all zeros"),
        (changed(**{"mom2.mom2": with_nan()}), "not finite"),
        (changed(**{"mom2.mom2": -published(64)["mom2.mom2"]}), "negative diagonal"),
        (changed(**{"mom2.mom2": np.ones((64, 64), np.int64)}), "is of int64"),
        (changed(**{"mom2.count": np.array(0)}), "has the count 0"),
        (changed(**{"mom2.count": np.array(np.nan)}), "has the count nan"),
        (changed(**{"mom2.mom2": np.array([{"a": 1}], dtype=object)}), "unpickling them could run code"),
        ({"mean.mean": np.ones(64)}, "holds no second moment (mom2.mom2); it has mean.mean"),
    ],
)
def test_files_that_are_no_statistics_of_this_model(gpt2, tmp_path, arrays, wanted, home):
    assert wanted in refusal(npz.import_npz, gpt2, npz_file(tmp_path, **arrays))
    assert not list(home.rglob("*.safetensors"))


def test_files_that_are_no_npz(gpt2, tmp_path):
    whole = npz_file(tmp_path, **published(64))
    cut = tmp_path / "model.layers.1.cut.npz"
    for content in (
        whole.read_bytes()[:3000],
        b"",
        b"not a zip",
        whole.read_bytes().replace(b"PK\x03\x04", b"PK\x00\x00"),
    ):
        cut.write_bytes(content)
        assert "cannot be read" in refusal(npz.import_npz, gpt2, cut)
    np.save(tmp_path / "model.layers.1.one.npy", np.ones((64, 64)))
    assert "a single array" in refusal(npz.import_npz, gpt2, tmp_path / "model.layers.1.one.npy")
    assert "no file" in refusal(npz.import_npz, gpt2, tmp_path / "model.layers.1.gone.npz")
    assert "give --layer" in refusal(npz.import_npz, gpt2, npz_file(tmp_path, "mine.npz", **published(64)))
    assert "Layer 9 is not between 0 and 4" in refusal(npz.import_npz, gpt2, whole, 9)


def packed(folder: Path, more: bytes = b"", **entries: bytes) -> Path:
    """An archive of entries as they are; names have `_` for a full stop."""
    file = folder / "transformer.h.2.mlp.c_proj.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("_", "."), content)
    file.write_bytes(file.read_bytes() + more)
    return file


def array(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with whatever header."""
    told = header.encode() + b"\n"
    size = len(told).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + told + content


def header(shape: str = "(64, 64)", kind: str = "<f4") -> str:
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


SUM = published(64)["mom2.mom2"].tobytes()
MOMENT = {"mom2_npy": array(header(), SUM)}
COUNT = array(header("()", "<i8"), (500).to_bytes(8, "little"))

# Found by benchmarks/fuzz.py, each the smallest of its kind.
FUZZED = {
    "header cut off": ({"mom2_npy": array("{")}, "cannot be read"),
    "header of brackets": ({"mom2_npy": array("(" * 3000)}, "cannot be read"),
    "header of code": ({"mom2_npy": array("__import__('os').abort()")}, "cannot be read"),
    "header of another kind": ({"mom2_npy": array("(" * 3000, version=b"\x03\x00")}, "cannot be read"),
    "terabytes announced": ({"mom2_npy": array(header("(8589934592,)"))}, "is 8589934592; this model's"),
    "many dimensions": ({"mom2_npy": array(header(f"({'2, ' * 60})"))}, "is 2 × 2 × 2 × 2 × …; this"),
    "bytes missing": ({"mom2_npy": array(header(), SUM[:-1])}, "does not have as many bytes"),
    "bytes too many": ({"mom2_npy": array(header(), SUM + b"x")}, "does not have as many bytes"),
    "128 bits": ({"mom2_npy": array(header(kind="|f16"), SUM * 4)}, "16, 32 or 64 bits"),
    "count infinite": ({**MOMENT, "count_npy": array(header("()", "<f8"), bytes(6) + b"\xf0\x7f")}, "the count inf"),
    "count complex": ({**MOMENT, "count_npy": array(header("()", "<c8"), bytes(8))}, "complex64"),
    "count a list": ({**MOMENT, "count_npy": array(header("(9,)", "<i8"), bytes(72))}, "(9,)"),
    "two lines in a name": ({"a\nb_npy": b""}, r"it has 'a\nb'"),
    "long name": ({"a" * 5000: b""}, "it has 'aaa"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUZZED)
def test_files_that_were_found_by_fuzzing(gpt2, tmp_path, name, home):
    entries, wanted = FUZZED[name]
    message = refusal(npz.import_npz, gpt2, packed(tmp_path, **entries))
    assert wanted in message and len(message) < 700
    assert not list(home.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("scale", "count", "wanted"),
    [
        (1e300, 1, "too large or too small for float32"),
        (1e-310, 1, "too large or too small for float32"),
        (1.0, 1e300, "has the count 1e+300"),
    ],
)
def test_numbers_that_are_none_as_float32_are_refused(gpt2, tmp_path, scale, count, wanted, home):
    moment = published(64)["mom2.mom2"].astype(np.float64) * scale
    assert wanted in refusal(npz.import_npz, gpt2, npz_file(tmp_path, mom2=moment, count=np.array(count)))
    assert not list(home.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("lies", [np.ascontiguousarray, np.asfortranarray])
def test_all_number_formats_and_layouts_give_the_same(gpt2, tmp_path, kind, lies):
    values = published(64)
    wanted = values["mom2.mom2"].astype(np.float64) / 500
    moment = lies((values["mom2.mom2"] / 8).astype(kind))
    found = npz.import_npz(gpt2, npz_file(tmp_path, mom2=moment, count=np.array(500.0 / 8 * 2)))
    C0 = load_file(found.file)["C0"].numpy()
    assert np.allclose(C0 * 2, wanted, rtol=2e-3 if "f2" in kind else 1e-6, atol=1e-3 if "f2" in kind else 1e-7)


def test_a_matrix_that_nobody_asked_for_is_not_read(gpt2, tmp_path, monkeypatch):
    """A bomb beside the statistics, and one in their place, of which the header is enough."""
    read = []
    original = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: read.append(n) or original(self, n))
    bomb = array(header("(1000000,)", "<f8"), bytes(8_000_000))
    file = packed(tmp_path, mom2_npy=array(header(), SUM), mom2_count_npy=COUNT, more_npy=bomb)
    assert npz.import_npz(gpt2, file).tokens == 500
    refusal(npz.import_npz, gpt2, packed(tmp_path, mom2_npy=bomb))
    assert min(read) >= 0 and max(read) == len(SUM)


def test_chosen_statistics_that_are_gone_are_no_others(gpt2, tmp_path):
    found = npz.import_npz(gpt2, npz_file(tmp_path, **published(64)))
    found.file.write_bytes(b"damaged")
    said = refusal(second_moments, gpt2, [2], 1000)
    assert "chosen for layer 2" in said and "cannot be read" in said
    assert second_moments(gpt2, [2], 1000, SAMPLED_TEXT)[2].shape == (64, 64)


# -- exporting ---------------------------------------------------------------------------------------------------------


def both(lm, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """C0 and F that edits use."""
    file = files_used(lm, [layer], 1000)[layer]
    return load_file(file)["C0"], gradient_moments.load(file_beside(file), lm.d_model)


def test_what_is_exported_comes_back_to_the_bit(gpt2, tmp_path, statistics_text, monkeypatch):
    gather(gpt2, Request("tiny", str(statistics_text), (1, 2), 700))
    before = {layer: both(gpt2, layer) for layer in (1, 2)}
    counts = {layer: gradient_moments.count_in(file_beside(files_used(gpt2, [layer], 1000)[layer])) for layer in (1, 2)}
    files = npz.export_npz(gpt2, tmp_path / "new" / "folder")
    assert [file.name for file in files.values()] == [f"transformer.h.{n}.mlp.c_proj_float64_mom2.npz" for n in (1, 2)]
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "another machine"))
    for layer, file in files.items():
        found = npz.import_npz(gpt2, file)
        assert (found.layer, found.gradients, found.model) == (layer, True, gpt2.texts_key) and found.tokens > 600
        C0, F = both(gpt2, layer)
        assert torch.equal(C0, before[layer][0]) and torch.equal(F, before[layer][1])
        assert gradient_moments.count_in(file_beside(found.file)) == counts[layer]
    [one, _] = stored_statistics.stored(gpt2.texts_key)
    assert one.source == f"text {statistics_text.name} (imported)"
    again = npz.export_npz(gpt2, tmp_path / "again", [2])
    assert list(again) == [2] and again[2].read_bytes() == files[2].read_bytes()


def test_a_mean_of_unknown_tokens_stays_one(gpt2, tmp_path, monkeypatch):
    values = published(64)
    npz.import_npz(gpt2, npz_file(tmp_path, **{"mom2.mom2": values["mom2.mom2"] / 500}))
    C0 = load_file(files_used(gpt2, [2], 1000)[2])["C0"]
    [file] = npz.export_npz(gpt2, tmp_path / "out", [2]).values()
    with np.load(file) as arrays:
        assert "mom2.count" not in arrays and "gradients.mom2" not in arrays
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "another machine"))
    found = npz.import_npz(gpt2, file)
    assert found.tokens == 0 and not found.gradients
    assert torch.equal(load_file(found.file)["C0"], C0)


def test_what_cannot_be_exported(gpt2, tmp_path, home):
    said = refusal(npz.export_npz, gpt2, tmp_path / "out")
    assert "has no statistics yet" in said
    npz.import_npz(gpt2, npz_file(tmp_path, **published(64)))
    assert "Layer 3 of" in refusal(npz.export_npz, gpt2, tmp_path / "out", [2, 3])
    assert "Layer 9 is not between 0 and 4" in refusal(npz.export_npz, gpt2, tmp_path / "out", [9])
    assert not (tmp_path / "out").exists()


def gradients_of_file(d: int = 32, **changes) -> dict[str, np.ndarray]:
    G = np.random.default_rng(1).standard_normal((90, d))
    return published(64) | {"gradients.count": np.array(90), "gradients.mom2": G.T @ G} | changes


def test_gradients_of_others_are_taken_over(gpt2, tmp_path):
    d, values = gpt2.d_model, gradients_of_file(gpt2.d_model)
    found = npz.import_npz(gpt2, npz_file(tmp_path, **values, text=np.array("a\nb"), model=np.array("1234")))
    assert found.gradients and found.model == "1234"
    assert stored_statistics.read_head(found.file).source.startswith("imported transformer")  # not two lines
    F = gradient_moments.gradient_moments(gpt2, {2: found.file})[2]
    assert np.allclose(F.numpy(), values["gradients.mom2"] / 90, rtol=1e-6) and F.shape == (d, d)


def test_gradients_of_unknown_tokens_stay_a_mean(gpt2, tmp_path, monkeypatch):
    values = gradients_of_file(gpt2.d_model)
    mean = values["gradients.mom2"] / values.pop("gradients.count")
    npz.import_npz(gpt2, npz_file(tmp_path, **(values | {"gradients.mom2": mean})))
    F = both(gpt2, 2)[1]
    [file] = npz.export_npz(gpt2, tmp_path / "out", [2]).values()
    with np.load(file) as arrays:
        assert "gradients.count" not in arrays and arrays["gradients.mom2"].any()
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "another machine"))
    npz.import_npz(gpt2, file)
    assert torch.equal(both(gpt2, 2)[1], F)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"gradients.mom2": np.ones((64, 64))}, "this model's gradients have 32 numbers"),
        ({"gradients.mom2": np.full((32, 32), np.inf)}, "not finite"),
        ({"gradients.mom2": np.triu(np.ones((32, 32)))}, "not symmetric"),
        ({"gradients.count": np.array(-4)}, "has the count -4"),
    ],
)
def test_gradients_that_are_none_import_nothing(gpt2, tmp_path, home, changes, wanted):
    assert gpt2.d_model == 32
    assert wanted in refusal(npz.import_npz, gpt2, npz_file(tmp_path, **gradients_of_file(**changes)))
    assert not list(home.rglob("*.safetensors"))
