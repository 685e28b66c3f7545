"""Odd model folders, as people have them: each is a tiny sound one with one thing changed.

Every row of `FOLDERS` says what is to come of it: the words of the one line with which it is refused, or of the one
note that it is used with, or that there is nothing to say.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (  # fmt: skip
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"


@dataclass(frozen=True)
class Odd:
    """An odd folder.

    Attributes:
        change: made to a copy of the sound folder.
        refused: words of the refusal; None for a folder that is used.
        note: words of the note that it is used with; None where there is nothing to say.
        base: the sound folder, see `sound_folders`.
    """

    change: Callable[[Path], object]
    refused: str | None = None
    note: str | None = None
    base: str = "llama"


def sound_folders(where: Path) -> dict[str, Path]:
    """Two blocks of each of a few families, never trained: "llama" in one file, "shards" of it, "gpt2", "opt"."""
    torch.manual_seed(0)
    tokenizer = tiny_models.metaspace_tokenizer()
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**shape, **sizes, intermediate_size=64, num_key_value_heads=2))
    opt = OPTForCausalLM(OPTConfig(**shape, **sizes, ffn_dim=64, word_embed_proj_dim=32, pad_token_id=0))
    gpt2 = GPT2LMHeadModel(GPT2Config(**shape, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    found = {name: where / name for name in ("llama", "shards", "gpt2", "opt")}
    for name, model in (("llama", llama), ("shards", llama), ("gpt2", gpt2), ("opt", opt)):
        model.save_pretrained(found[name], **({"max_shard_size": "60KB"} if name == "shards" else {}))
        tokenizer.save_pretrained(found[name])
    return found


# -- changes -----------------------------------------------------------------------------------------------------------


def nothing(folder: Path) -> None:
    pass


def config(**values) -> Callable[[Path], object]:
    return lambda folder: rewrite_json(folder / "config.json", lambda found: found | values)


def one_layer_more(found: dict[str, torch.Tensor]) -> None:
    found.update({key.replace("layers.1.", "layers.2."): weight.clone() for key, weight in found.items()})


def text(file: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def index(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the index of shards; a change returns the new content."""
    return lambda folder: rewrite_json(folder / INDEX, change)


def rewrite_json(file: Path, change: Callable[[dict], object]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def weights(change: Callable[[dict[str, torch.Tensor]], object], metadata: bool = True) -> Callable[[Path], None]:
    """Change the weights; a change works in place, or returns others."""

    def rewrite(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        changed = change(found)
        found = changed if isinstance(changed, dict) else found
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"} if metadata else None)

    return rewrite


def one_weight(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return weights(lambda found: found.update({key: change(found[key]).contiguous()}))


def one_number(key: str, value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    def change(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {name: weight.to(dtype) for name, weight in found.items()}
        found[key].view(-1)[-1] = value
        return found

    return weights(change)


def cut(file: str, share: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return change


def link(file: str, to: str) -> Callable[[Path], None]:
    """A link in place of a file, which moves to where the link leads when that is in the folder."""

    def change(folder: Path) -> None:
        if to.startswith("blobs"):
            (folder / "blobs").mkdir()
            (folder / file).rename(folder / to)
        else:
            (folder / file).unlink()
        (folder / file).symlink_to(to)

    return change


def shard(folder: Path, number: int) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[number]


def in_a_folder(folder: Path) -> None:
    (folder / "parts").mkdir()
    for file in folder.glob("model-*.safetensors"):
        file.rename(folder / "parts" / file.name)
    index(lambda found: {"weight_map": {key: f"parts/{file}" for key, file in found["weight_map"].items()}})(folder)


def outside(folder: Path) -> None:
    """A shard beside the folder, where it does exist."""
    file = shard(folder, 0)
    file.rename(folder.parent / file.name)
    index(lambda found: {"weight_map": {key: name.replace(file.name, f"../{file.name}")
                                        for key, name in found["weight_map"].items()}})(folder)  # fmt: skip


def twice(folder: Path) -> None:
    first, second = shard(folder, 0), shard(folder, 1)
    key, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {key: value + 1}, second, metadata={"format": "pt"})


def stale_index(folder: Path) -> None:
    text(INDEX, json.dumps({"weight_map": {DOWN: "model-00001-of-00009.safetensors"}}))(folder)


def adapter(folder: Path) -> None:
    values = {"peft_type": "LORA", "base_model_name_or_path": "x/y", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}
    save_file(lora, folder / "adapter_model.safetensors")


def adapter_alone(folder: Path) -> None:
    adapter(folder)
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def folder_for_a_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def tokenizer(make: Callable[[PreTrainedTokenizerFast], PreTrainedTokenizerFast]) -> Callable[[Path], None]:
    """Another tokenizer, made of the folder's own."""
    return lambda folder: make(AutoTokenizer.from_pretrained(folder)).save_pretrained(folder) and None


def with_tokens(found: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    found.add_tokens([f"<extra_{number}>" for number in range(7)])
    return found


def of_three_words(_) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def without_special(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        rewrite_json(
            folder / "tokenizer_config.json",
            lambda found: {key: value for key, value in found.items() if key not in names},
        )

    return change


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def padded(folder: Path) -> None:
    """Rows of the embedding that no token has, as many models have them for the sake of speed."""
    wider = ("model.embed_tokens.weight", "lm_head.weight")
    weights(lambda found: found | {key: torch.cat([found[key], torch.zeros(64, 32)]) for key in wider})(folder)
    rewrite_json(folder / "config.json", lambda found: found | {"vocab_size": found["vocab_size"] + 64})


def own_code(*classes: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config(model_type="my_own", auto_map={name: f"own.{name}" for name in classes})(folder)
        (folder / "own.py").write_text("raise SystemExit('was run')")

    return change


def uneven_heads(folder: Path) -> None:
    """Weights that fit their configuration, and a configuration of which no attention can be computed."""
    config(num_key_value_heads=3)(folder)
    rows = {"k_proj": 24, "v_proj": 24}
    weights(lambda found: {key: weight.repeat(2, 1)[: rows[key.split(".")[-2]]] if "_proj" in key and key.split(".")[-2]
                           in rows else weight for key, weight in found.items()})(folder)  # fmt: skip


def of_old_gpt2(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As on the hub: names without their prefix, and the masks of the attention among the weights."""
    found = {key.removeprefix("transformer."): weight for key, weight in found.items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8) for layer in range(2)}
    return found | masks | {f"h.{layer}.attn.masked_bias": torch.tensor(-torch.inf) for layer in range(2)}


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return weights(lambda found: {change(key): weight for key, weight in found.items()})


DAMAGED = "the file model.safetensors is damaged"
UNUSED = "in the files but not used"
UNBUILT = "its config.json describes no model that can be built"

FOLDERS = {
    # used, and nothing to say
    "sound": Odd(nothing),
    "sound, in shards": Odd(nothing, base="shards"),
    "sound, GPT-2": Odd(nothing, base="gpt2"),
    "sound, no row": Odd(nothing, base="opt"),
    "float16": Odd(weights(lambda found: {key: weight.half() for key, weight in found.items()})),
    "bfloat16": Odd(weights(lambda found: {key: weight.bfloat16() for key, weight in found.items()})),
    "float64": Odd(weights(lambda found: {key: weight.double() for key, weight in found.items()})),
    "no metadata": Odd(weights(lambda found: found, metadata=False)),
    "links, as in the hub's cache": Odd(link(WEIGHTS, "blobs/abc")),
    "names without prefix": Odd(renamed(lambda key: key.removeprefix("transformer.")), base="gpt2"),
    "tied, stored as the head alone": Odd(renamed(lambda key: key.replace("transformer.wte", "lm_head")), base="gpt2"),
    "spare rows": Odd(padded),
    "no padding token": Odd(without_special("pad_token")),
    "no special tokens": Odd(without_special("pad_token", "eos_token", "bos_token", "unk_token")),
    "generation settings at odds": Odd(text("generation_config.json", '{"temperature": 0.3, "do_sample": false}')),
    # used, with a note
    "masks among the weights": Odd(weights(of_old_gpt2), note=f"masked_bias are {UNUSED}", base="gpt2"),
    "one weight too many": Odd(weights(lambda found: found.update(extra=torch.zeros(2))), note=f"extra is {UNUSED}"),
    "not finite where it is not used": Odd(
        weights(lambda found: found.update(extra=torch.full((2,), torch.nan))), note=f"extra is {UNUSED}"
    ),
    "a layer too many": Odd(weights(one_layer_more), note="7 more are in the files but not used"),
    "an adapter beside": Odd(adapter, note="(adapter_model.safetensors) and is not applied"),
    "one file and an index": Odd(stale_index, note="The weights are those of model.safetensors"),
    "generation settings cut off": Odd(
        text("generation_config.json", '{"temperature": 0.3,'), note="generation_config.json is not used"
    ),
    "tied and not": Odd(config(tie_word_embeddings=True), note="the files hold two that differ"),
    # files that are not there, or not what they should be
    "shards in a folder of their own": Odd(in_a_folder, "has no weights (*.safetensors)", base="shards"),
    "no folder": Odd(shutil.rmtree, "does not exist"),
    "no configuration": Odd(lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "configuration that leads nowhere": Odd(link("config.json", "/nowhere/config.json"), "has no config.json"),
    "pickled alone": Odd(pickled, "has no weights (*.safetensors)"),
    "weights under another name": Odd(
        lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors"), "weights.safetensors is there"
    ),
    "an adapter for weights": Odd(adapter_alone, "adapter_model.safetensors is there"),
    "an adapter without a model": Odd(
        lambda folder: (adapter_alone(folder), (folder / "config.json").unlink()), "holds an adapter and no model"
    ),
    "a folder for a file": Odd(folder_for_a_file, "has neither model.safetensors nor"),
    "weights that lead nowhere": Odd(link(WEIGHTS, "/nowhere/abc"), "a link to a file that is not there"),
    "cut off": Odd(cut(WEIGHTS, 0.5), DAMAGED),
    "cut off by a byte": Odd(lambda folder: text(WEIGHTS, (folder / WEIGHTS).read_bytes()[:-1])(folder), DAMAGED),
    "empty": Odd(text(WEIGHTS, b""), "damaged (it is empty)"),
    "header longer than the file": Odd(text(WEIGHTS, (10**6).to_bytes(8, "little") + b"{}"), DAMAGED),
    "header longer than memory": Odd(text(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), DAMAGED),
    "header that is not valid JSON": Odd(text(WEIGHTS, (2).to_bytes(8, "little") + b"}{"), DAMAGED),
    "a web page": Odd(text(WEIGHTS, b"<!DOCTYPE html><html>not found</html>" * 50), DAMAGED),
    "a pointer of LFS": Odd(text(WEIGHTS, POINTER), "model.safetensors is a Git LFS pointer"),
    "a shard that is a pointer": Odd(lambda folder: shard(folder, 1).write_bytes(POINTER), "LFS po", base="shards"),
    "a tokenizer that is a pointer": Odd(text("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
    "a shard missing": Odd(lambda folder: shard(folder, 1).unlink(), "is missing in", base="shards"),
    "a shard cut off": Odd(lambda folder: cut(shard(folder, 1).name, 0.7)(folder), "is damaged", base="shards"),
    "no index": Odd(lambda folder: (folder / INDEX).unlink(), "more are there. Save the whole model", base="shards"),
    "an index that is not valid JSON": Odd(text(INDEX, "{"), f"{INDEX} cannot be read", base="shards"),
    "an index that is a pointer": Odd(text(INDEX, POINTER), f"{INDEX} is a Git LFS pointer", base="shards"),
    "an index without names": Odd(text(INDEX, '{"metadata": {}}'), "no weight_map of names", base="shards"),
    "an index of a list": Odd(text(INDEX, '{"weight_map": ["a"]}'), "no weight_map of names", base="shards"),
    "an index of numbers": Odd(text(INDEX, '{"weight_map": {"a": 1}}'), "no weight_map of names", base="shards"),
    "an index of nothing": Odd(text(INDEX, '{"weight_map": {}}'), "names no file with weights", base="shards"),
    "an index without metadata": Odd(
        index(lambda found: {"weight_map": found["weight_map"]}), 'has no "metadata"', base="shards"
    ),
    "an index that names a file elsewhere": Odd(outside, "which is not a file of its folder", base="shards"),
    "an index that names a path": Odd(
        text(INDEX, '{"weight_map": {"a": "/etc/x"}}'), "not a file of its", base="shards"
    ),
    "a weight in two shards": Odd(twice, "nothing says which one counts", base="shards"),
    # weights
    "a weight missing": Odd(weights(lambda found: found.pop(DOWN)), f"{DOWN} is not in the files"),
    "no head, and not tied": Odd(weights(lambda found: found.pop("lm_head.weight")), "lm_head.weight is not in the"),
    "names with a prefix": Odd(renamed("_orig_mod.{}".format), "more are not in the files"),
    "names of another family": Odd(renamed(lambda key: key.replace("mlp", "ffn")), "more are not in the files"),
    "transposed": Odd(one_weight(DOWN, torch.t), "is 64 × 32 in the file and 32 × 64 in the configuration"),
    "a single layer": Odd(config(num_hidden_layers=1), "has 1 block; editing needs at least 2"),
    "a layer too few": Odd(config(num_hidden_layers=3), "more are not in the files"),
    "another width": Odd(config(intermediate_size=48), "config.json belongs to another model"),
    "NaN": Odd(one_number(DOWN, torch.nan), f"weight {DOWN} in model.safetensors has numbers that are not finite"),
    "infinite": Odd(one_number(DOWN, -torch.inf), "not finite"),
    "NaN in bfloat16": Odd(one_number(DOWN, torch.nan, torch.bfloat16), "not finite"),
    "infinite in float16": Odd(one_number(DOWN, torch.inf, torch.float16), "not finite"),
    "NaN in a norm": Odd(one_number("model.norm.weight", torch.nan), "weight model.norm.weight in"),
    "NaN without prefix": Odd(
        lambda folder: (weights(of_old_gpt2)(folder), one_number("h.1.ln_1.bias", torch.nan)(folder)),
        "weight transformer.h.1.ln_1.bias in model.safetensors has numbers", base="gpt2",
    ),
    "finite, and not to compute with": Odd(
        one_weight("lm_head.weight", lambda weight: torch.full_like(weight, 3e38)), "gives logits that are not finite"
    ),
    "whole numbers": Odd(one_weight(DOWN, lambda weight: (100 * weight).to(torch.int8)), "is stored as I8 in"),
    "float8": Odd(one_weight(DOWN, lambda weight: weight.to(torch.float8_e4m3fn)), "is stored as F8_E4M3 in"),
    "quantised": Odd(config(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantised (gptq)"),
    # tokenizers
    "tokens added, rows not": Odd(tokenizer(with_tokens), "so it is another model's"),
    "a tokenizer of more tokens": Odd(
        tokenizer(lambda _: tiny_models.metaspace_tokenizer(vocabulary=560)), "so it is another model's"
    ),
    "a tokenizer of three words": Odd(tokenizer(of_three_words), "its tokenizer 3, so it is another model's"),
    "no tokenizer": Odd(no_tokenizer, "has no tokenizer.json"),
    "a tokenizer that is not valid JSON": Odd(text("tokenizer.json", "{"), "the tokenizer in"),
    "a tokenizer of nothing": Odd(text("tokenizer.json", "{}"), "the tokenizer in"),
    # configurations
    "a configuration that is not valid JSON": Odd(text("config.json", "{"), "the configuration in"),
    "a configuration of nothing": Odd(text("config.json", "{}"), "no model_type"),
    "a configuration that is a list": Odd(text("config.json", "[1]"), "no model_type"),
    "a type that nobody knows": Odd(config(model_type="nonsense"), "is of a type that transformers"),
    "code of its own": Odd(own_code("AutoConfig", "AutoModelForCausalLM"), "needs Python code of its own"),
    "code for the model alone": Odd(own_code("AutoModelForCausalLM"), "needs Python code of its own"),
    "an encoder": Odd(config(model_type="bert"), "not a decoder-only language model"),
    "less than no layers": Odd(config(num_hidden_layers=-2), "num_hidden_layers is -2, but must be at least 1"),
    "no layers": Odd(config(num_hidden_layers=0), "num_hidden_layers is 0"),
    "layers without end": Odd(config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "layers in words": Odd(config(num_hidden_layers="two"), "Field 'num_hidden_layers' expected int"),
    "a width that the heads do not share": Odd(config(hidden_size=33), "not a multiple of the number of attention"),
    "no width": Odd(config(hidden_size=0), "hidden_size is 0"),
    "a head too many": Odd(uneven_heads, "cannot be run"),
    "no heads": Odd(config(num_attention_heads=0), "the configuration in"),
    "heads below zero": Odd(config(num_attention_heads=-4), "num_attention_heads is -4"),
    "no vocabulary": Odd(config(vocab_size=-5), "vocab_size is -5"),
    "an activation that nobody knows": Odd(config(hidden_act="nonsense"), f"{UNBUILT} (no entry 'nonsense')"),
    "room for eight tokens": Odd(config(max_position_embeddings=8), "max_position_embeddings is 8"),
}  # fmt: skip


def make(row: Odd, sound: dict[str, Path], folder: Path) -> Path:
    """An odd folder of a row, made of a sound one."""
    shutil.copytree(sound[row.base], folder)
    row.change(folder)
    return folder
