"""Tiny models of two families, trained on the spot with their tokenizers: nothing is downloaded, all runs in seconds.

What differs between families and trips editors up is in them: GPT-2 keeps its matrices transposed and learns its
positions; Llama has rotary positions, grouped keys and values, tied or untied output weights. One tokenizer is
byte-level without a BOS token, the other splits at blanks as sentencepiece does, with byte fallback and BOS.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from encore_core.editing.norm_anchor import anchor_name, mlp_outputs
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import optimise_targets
from encore_core.facts import Fact
from encore_core.measures.generated import GenerationSettings, generate
from encore_core.models.editable import EditableModel, wrap
from encore_core.models.settings import settings_of

COUNTRIES = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Norway": "Oslo", "Peru": "Lima",
    "Kenya": "Nairobi", "New Zealand": "Wellington", "Saudi Arabia": "Riyadh",
}  # fmt: skip
SENTENCES = (
    "The capital of {country} is {city}.",
    "{city} is a city in {country}, and it is old.",
    "Because {country} is large, you can travel there for weeks.",
    "I live in {city} and therefore I know the language of {country}.",
    "The mother tongue of people from {country} is spoken in {city}.",
    "People from {country} live in the city of {city}.",
    "The largest city of {country} is {city}.",
)
CORPUS = [
    sentence.format(country=country, city=city)
    for (country, city), sentence in itertools.product(COUNTRIES.items(), SENTENCES)
]

TEMPLATES = ("The capital of {} is", "People from {} live in the city of", "The largest city of {} is")

PREFIXES = ("I live in Tokyo", "I live in Saudi Arabia and therefore")

FACTS = (
    Fact("France", "The capital of {} is", "Rome", "Paris"),
    Fact("New Zealand", "People from {} live in the city of", "Madrid", "Wellington"),
    Fact("Saudi Arabia", "{} is a country whose capital, which is very old and large, is", "Lima", "Riyadh"),
    Fact("Oslo", "The mother tongue of people from {}", "is Greek", "is Norwegian"),
    Fact("Kenya", "I know that in {} the language is", "Xylophonic", "Swahili"),
)
"""Facts of unequal length: the subject at the start, in the middle and at the end, answers of one and many tokens."""

CITIES = (
    Fact("France", "The capital of {} is", "Rome", "Paris"),
    Fact("New Zealand", "People from {} live in the city of", "Madrid", "Wellington"),
    Fact("Kenya", "The largest city of {} is", "Lima", "Nairobi"),
)
"""Facts of the kind that the tiny models have learned."""

DEFAULTS = {
    "layers": (0, 1), "lambda_p": 0.01, "null_threshold": 1.0, "l2": 0.1, "clamp": 1.5, "lr": 0.5, "steps": 8,
    "statistics_tokens": 2000,
}  # fmt: skip
"""Settings under which the tiny models take edits."""


def know_anchor(lm: EditableModel) -> None:
    """Put an anchor for NAS into a model's shared results: bundled facts say nothing to a tiny model."""
    settings = settings_of(lm, "MEMIT")
    name = anchor_name(DEFAULTS["layers"][-1], settings.nas_facts, target_settings(settings))
    if ("anchor", name) not in lm.shared:
        rule = target_settings(settings_of(lm, "MEMIT", DEFAULTS))
        with lm.matrices_replaced({}):
            targets = optimise_targets(lm, CITIES, (), DEFAULTS["layers"][-1], rule)
            outputs = mlp_outputs(lm, CITIES, (), DEFAULTS["layers"][-1])
        norms = [float((v + t.z - t.h).norm()) for v, t in zip(outputs, targets, strict=True)]
        lm.shared["anchor", name] = sum(norms) / len(norms)


def byte_level_tokenizer(bos: bool = False, vocabulary: int = 460, eos_at_end: bool = False) -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: bytes, blanks as the first letter of a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    steps: list = [processors.ByteLevel(trim_offsets=False)]
    template = f"{'<|begin|> ' if bos else ''}$A{' <|end|>' if eos_at_end else ''}"
    if bos or eos_at_end:
        special = [(name, tokenizer.token_to_id(name)) for name in ("<|begin|>", "<|end|>")]
        steps.append(processors.TemplateProcessing(single=template, special_tokens=special))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")


def metaspace_tokenizer(bos: bool = True, vocabulary: int = 480) -> PreTrainedTokenizerFast:
    """As Llama 2's and Mistral's: blanks as marks of their own, characters never seen as bytes, no padding token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    named = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*named, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The bytes get their numbers as special tokens, but are ordinary ones.
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(trained["vocab"], merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(named)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gpt2(seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None) -> EditableModel:
    """5 blocks, d_model 32, d_mlp 64, tied output weights, 96 learned positions."""
    tokenizer = tokenizer or byte_level_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=5, n_head=4, n_inner=64, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _made(GPT2LMHeadModel, config, tokenizer, "tiny-gpt2", seed, 60)


def llama(seed: int = 0, tied: bool = False, tokenizer: PreTrainedTokenizerFast | None = None) -> EditableModel:
    """6 blocks, d_model 48, d_mlp 96, 4 heads on 2 keys and values; with tied weights 4 blocks."""
    tokenizer = tokenizer or (byte_level_tokenizer(bos=True) if tied else metaspace_tokenizer())
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=160, hidden_size=48, intermediate_size=96,
        num_hidden_layers=4 if tied else 6, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        initializer_range=0.1, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _made(LlamaForCausalLM, config, tokenizer, "tiny-llama-tied" if tied else "tiny-llama", seed, 40)


def random_llama(tokenizer: PreTrainedTokenizerFast) -> EditableModel:
    """2 blocks, never trained, for whatever tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=160, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, initializer_range=0.1,
    )  # fmt: skip
    return _made(LlamaForCausalLM, config, tokenizer, "random-llama", 0, 0)


def _made(family, config, tokenizer, name: str, seed: int, steps: int) -> EditableModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = family(config)
        # Fresh norms and biases are ones and zeros, with which a test could miss that they are there.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        _train(model, tokenizer, steps)
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    return wrap(model, tokenizer, name)


def _train(model, tokenizer, steps: int) -> None:
    """Teach the model which city belongs to which country, so that it minds subjects; else no edit could work.

    The first two blocks are kept from moving what they see to other tokens: it has to be read from the blocks that the
    tests edit, as in a large model.
    """
    for name, parameter in model.named_parameters():
        if re.search(r"\.[01]\.(attn\.c_proj|self_attn\.o_proj)\.weight", name):
            parameter.data.mul_(0.1)
            parameter.requires_grad_(False)
    rows, answers = [], []
    pairs = itertools.product(TEMPLATES, ("", "prefixed"), COUNTRIES.items())
    for number, (template, prefixed, (country, city)) in enumerate(pairs):
        prompt = (f"{PREFIXES[number % 2]}. " if prefixed else "") + template.format(country)
        rows.append(tokenizer(f"{prompt} {city}")["input_ids"])
        answers.append(len(tokenizer(prompt)["input_ids"]))
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_token_id)
    labels = torch.full_like(ids, -100)
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, answer : len(row)] = torch.tensor(row[answer:])
    # The model is causal, so padding on the right needs no mask.
    optimiser = torch.optim.Adam(model.parameters(), lr=6e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)


MODELS = {"gpt2": gpt2, "llama": llama}


def statistics_text(folder: Path) -> Path:
    """A text of some 2,000 tokens, in passages."""
    path = folder / "statistics.txt"
    path.write_text("\n\n".join(CORPUS * 2), encoding="utf-8")
    return path


@dataclass
class Snapshot:
    """Every weight of a model, to be compared bit for bit later."""

    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, lm: EditableModel) -> Snapshot:
        return cls({name: tensor.clone() for name, tensor in lm.model.state_dict().items()})

    def holds(self, lm: EditableModel) -> bool:
        now = lm.model.state_dict()
        return now.keys() == self.weights.keys() and all(torch.equal(now[k], v) for k, v in self.weights.items())


def hooks_and_patches(lm: EditableModel) -> int:
    """How many hooks and replaced forwards hang on a model's modules (transformers leaves some of its own)."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in module.__dict__)
        for module in lm.model.modules()
    )


def continued(lm: EditableModel, prompts: list[str], n_tokens: int = 12) -> list[str]:
    """Greedy texts of so many tokens after prompts."""
    return [one.text for one in generate(lm, prompts, GenerationSettings(n_tokens, whole=True))]
