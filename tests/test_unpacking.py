"""A GGUF file unpacked into a folder: what transformers makes of it, with the file read once."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from encore_core.models.gguf import unpack

D_MODEL, D_MLP, N_HEADS, N_LAYERS = 16, 32, 2, 2
TOKENS = [*"abcdefgh", "ab", "cd", "abcd", "<s>", "</s>"]
MERGES = ["a b", "c d", "ab cd"]


@pytest.fixture
def file(tmp_path):
    """A tiny Llama with random weights, some of them in the embedded model's quantisation's neighbour Q8_0."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * len(TOKENS))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index("<s>"))
    writer.add_eos_token_id(TOKENS.index("</s>"))
    numbers = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = numbers.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(TOKENS), D_MODEL)
    add("output_norm.weight", D_MODEL)
    for block in range(N_LAYERS):
        for name, shape in {
            "attn_norm": (D_MODEL,), "ffn_norm": (D_MODEL,), "attn_q": (D_MODEL, D_MODEL), "attn_k": (D_MODEL, D_MODEL),
            "attn_v": (D_MODEL, D_MODEL), "attn_output": (D_MODEL, D_MODEL), "ffn_gate": (D_MLP, D_MODEL),
            "ffn_up": (D_MLP, D_MODEL), "ffn_down": (D_MODEL, D_MLP),
        }.items():  # fmt: skip
            add(f"blk.{block}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_what_transformers_makes_of_it_and_the_file_is_read_once(file, tmp_path, monkeypatch):
    read = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path):
            read.append(path)
            super().__init__(path)

    plain = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    told = []
    unpack(file, tmp_path / "model", told.append)
    assert len(read) == 1 and gguf.GGUFReader is Counted
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    wanted = plain.state_dict()
    assert found.dtype == torch.float32 and not hasattr(found.config, "quantization_config")
    assert wanted.keys() == found.state_dict().keys()
    for name, matrix in found.state_dict().items():
        assert torch.equal(matrix, wanted[name]), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_ids_to_tokens(tokenizer("abcdg")["input_ids"])[-2:] == ["abcd", "g"]


def test_a_file_that_is_none_leaves_nothing(file, tmp_path):
    before = gguf.get_tensor_name_map, gguf.GGUFReader
    file.write_bytes(b"GGUF" + b"nonsense" * 10)
    with pytest.raises(Exception):  # noqa: B017  (whatever the library says of it)
        unpack(file, tmp_path / "model", lambda share: None)
    assert not (tmp_path / "model").exists() and (gguf.get_tensor_name_map, gguf.GGUFReader) == before
