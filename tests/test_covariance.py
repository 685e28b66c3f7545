"""Key statistics held to k kᵀ summed token by token over plain forward passes; and how they are kept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import CORPUS, hooks_and_patches

from encore_core.editing import covariance
from encore_core.editing.covariance import collect, second_moments
from encore_core.errors import InputError


@torch.no_grad()
def naive(lm, layer, passages, n_tokens, window) -> torch.Tensor:
    total = torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64)
    left = n_tokens
    seen: list[torch.Tensor] = []
    handle = lm.down_projections[layer].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    for passage in passages:
        ids = lm.tokenizer(passage)["input_ids"]
        for start in range(0, len(ids), window):
            piece = ids[start : start + window][:left]
            if not piece:
                continue
            left -= len(piece)
            seen.clear()
            lm.model(torch.tensor([piece]), use_cache=False)
            for key in seen[0].reshape(-1, lm.d_mlp).double():
                total += torch.outer(key, key)
    handle.remove()
    return total / (n_tokens - left)


@pytest.mark.parametrize("n_tokens", [300, 100_000], ids=["cut off", "all"])
def test_the_second_moment_of_keys(lm, n_tokens):
    found = collect(lm, [2, 0], "\n\n".join(CORPUS[:50]), n_tokens)
    assert set(found) == {0, 2}
    for layer, C0 in found.items():
        assert (C0.shape, C0.dtype) == ((lm.d_mlp, lm.d_mlp), torch.float32)
        assert torch.equal(C0, C0.T)
        expected = naive(lm, layer, CORPUS[:50], n_tokens, 256)
        assert float((C0.double() - expected).norm()) <= 1e-5 * float(expected.norm())


def test_long_passages_are_run_in_windows(gpt2, monkeypatch):
    """No window is longer than the model's context, and none than the limit."""
    passage = " ".join(CORPUS[:20])
    assert len(gpt2.tokenizer(passage)["input_ids"]) > 2 * gpt2.max_length
    expected = naive(gpt2, 1, [passage], 10**6, gpt2.max_length)
    assert float((collect(gpt2, [1], passage, 10**6)[1].double() - expected).norm()) <= 1e-5 * float(expected.norm())
    monkeypatch.setattr(covariance, "WINDOW", 10)
    expected = naive(gpt2, 1, [passage], 10**6, 10)
    assert float((collect(gpt2, [1], passage, 10**6)[1].double() - expected).norm()) <= 1e-5 * float(expected.norm())


def test_too_little_text(llama, tmp_path):
    with pytest.raises(InputError, match=r"\d+ tokens of text say too little about 96 directions.* 192"):
        collect(llama, [1], "The capital of France is Paris.", 1000)
    with pytest.raises(InputError, match="too little"):
        collect(llama, [1], "", 1000)
    with pytest.raises(InputError, match="95 tokens"):
        collect(llama, [1], "\n\n".join(CORPUS), 95)
    with pytest.raises(InputError, match="cannot be read"):
        second_moments(llama, [1], 1000, tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="cannot be read"):
        second_moments(llama, [1], 1000, tmp_path / "latin.txt")


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_kept_on_disk_under_model_layer_text_and_length(
    gpt2, llama, statistics_text, tmp_path, empty_home, monkeypatch
):
    calls = []

    def counted(lm, layers, *rest):
        calls.append(sorted(layers))
        return collect(lm, layers, *rest)

    monkeypatch.setattr(covariance, "collect", counted)
    first = second_moments(gpt2, [0, 1], 500, statistics_text)
    again = second_moments(gpt2, [1, 0], 500, statistics_text)
    assert calls == [[0, 1]]
    assert all(torch.equal(first[layer], again[layer]) for layer in (0, 1))
    second_moments(gpt2, [1, 2], 500, statistics_text)
    assert calls[1:] == [[2]]  # what is there is not run again
    second_moments(gpt2, [1], 600, statistics_text)
    second_moments(llama, [1], 500, statistics_text)
    other = tmp_path / "other.txt"
    other.write_text(statistics_text.read_text() + "\n\nOne more passage.")
    second_moments(gpt2, [1], 500, other)
    assert calls[2:] == [[1], [1], [1]]
    copy = tmp_path / "copy.txt"
    copy.write_text(statistics_text.read_text())
    second_moments(gpt2, [1], 500, copy)
    assert len(calls) == 5  # the text counts, not its name
    files = sorted(empty_home.rglob("*.safetensors"))
    assert len(files) == 6
    assert {file.parent.name for file in files} == {gpt2.fingerprint, llama.fingerprint}
    assert all(set(load_file(file)) == {"C0"} for file in files)


def test_an_interrupted_collection_leaves_nothing(gpt2, statistics_text, empty_home):
    tidy = hooks_and_patches(gpt2)

    def stop(what, share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_moments(gpt2, [0], 500, statistics_text, progress=stop)
    assert not list(empty_home.rglob("*.safetensors"))
    assert hooks_and_patches(gpt2) == tidy


def test_a_damaged_file_is_made_again(gpt2, statistics_text, empty_home):
    good = second_moments(gpt2, [0], 500, statistics_text)[0]
    file = next(empty_home.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(second_moments(gpt2, [0], 500, statistics_text)[0], good)


def test_progress_ends_at_one(gpt2, statistics_text):
    told = []
    collect(gpt2, [0], statistics_text.read_text(), 1500, lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
