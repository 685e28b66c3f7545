"""Where subjects and answers lie in tokens, for hostile texts and for tokenizers of both kinds, with and without BOS.

The oracle decodes: the tokens up to the subject's last one must spell the text up to the subject's end, the tokens of
the answer must spell the answer.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
import torch
from refusals import refusal
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward import prompts as prompts_module
from encore_core.forward.prompts import (
    PREFIX_STARTS,
    encode,
    encode_fact,
    encode_subject_prompts,
    joined,
    sample_prefixes,
)
from encore_core.models.editable import EditableModel
from encore_core.storage import data_folder


class Bare:
    """What `encode` needs of a model."""

    start_token = None
    special_ids = EditableModel.special_ids

    def __init__(self, tokenizer, max_length=512):
        self.tokenizer, self.max_length = tokenizer, max_length


TOKENIZERS = {
    "byte level": lambda: tiny_models.byte_level_tokenizer(),
    "byte level, bos": lambda: tiny_models.byte_level_tokenizer(bos=True),
    "metaspace": lambda: tiny_models.metaspace_tokenizer(bos=False),
    "metaspace, bos": lambda: tiny_models.metaspace_tokenizer(bos=True),
    "eos at the end": lambda: tiny_models.byte_level_tokenizer(bos=True, eos_at_end=True),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def bare(request) -> Bare:
    return Bare(TOKENIZERS[request.param]())


HOSTILE = {
    "plain": Fact("France", "The capital of {} is", "Rome"),
    "subject first": Fact("France", "{} has the capital", "Rome"),
    "subject last": Fact("France", "Paris lies in {}", "a valley"),
    "braces": Fact("{0}", "In f-strings {} stands for {{x}} and", "{target}"),
    "braces around": Fact("x", "set {{}} of {x:>10} gives", "{y!r}"),
    "quotes": Fact('"Big" O\'Neil', "They call {} the 'best'", '"number one"'),
    "newlines": Fact("Line\nBreak", "First\n\nSecond {}\nthird", "fourth\nfifth"),
    "newline at the end": Fact("Japan", "Q: capital of {}?\nA:", "Tokyo"),
    "emoji": Fact("🦄🇫🇷", "The 🎉 of {} is 👩‍👩‍👧", "🍕🍕"),
    "emoji between letters": Fact("a🦄b", "x🎉{}🎉y is", "🍕z"),
    "right to left": Fact("القاهرة", "مدينة {} تقع في", "مصر"),
    "cjk": Fact("東京", "{}は日本の", "首都です"),
    "combining": Fact("é̂", "naïve café {} façade", "Zoë"),
    "double blanks": Fact("New  York", "The   city  of {}  is", "very  large"),
    "no blank before the subject": Fact("Berlin", "(city:{}) lies in", "Germany"),
    "punctuation behind": Fact("Rome", "Is {}, the city, in", "Italy?"),
    "tab": Fact("Oslo", "city\t{}\tcountry\t", "Norway"),
    "percent and backslash": Fact("%s\\n", r"C:\{} %d", r"\t%%"),
    "subject again": Fact("France", "France is large. The capital of {} in France is", "Rome"),
}


def spelled(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("prefix", ["", "The old", "🦄 {x}\n“y”"], ids=["plain", "prefix", "hostile prefix"])
@pytest.mark.parametrize("fact", HOSTILE.values(), ids=HOSTILE)
def test_subject_and_answer_are_found(bare, fact, prefix):
    encoded = encode_fact(bare, fact, prefix)
    lead = f"{prefix}. " if prefix else ""
    prompt = lead + fact.text
    subject_end = len(lead) + fact.subject_span[1]
    glue = "" if prompt.endswith(("\n", "\t", "の")) else " "
    tokenizer = bare.tokenizer

    assert encoded.ids == tuple(tokenizer(prompt + glue + fact.target_new)["input_ids"][: len(encoded.ids)])
    assert 0 < encoded.n_target < len(encoded.ids)
    assert encoded.target_ids == encoded.ids[-encoded.n_target :]
    assert spelled(tokenizer, encoded.target_ids).strip() == fact.target_new
    assert spelled(tokenizer, encoded.ids[: encoded.n_prompt]).strip() == prompt.strip()

    # Up to the lookup position stands everything up to the subject's end; one token less does not reach it.
    through = spelled(tokenizer, encoded.ids[: encoded.lookup + 1]).strip()
    short = spelled(tokenizer, encoded.ids[: encoded.lookup]).strip()
    wanted = prompt[:subject_end].strip()
    assert through.startswith(wanted)
    assert not short.startswith(wanted)
    assert encoded.lookup < encoded.n_prompt


@pytest.mark.parametrize("fact", HOSTILE.values(), ids=HOSTILE)
def test_the_subject_prompt_is_cut_behind_the_subject(bare, fact):
    encoded = encode_subject_prompts(bare, [fact])[0]
    assert encoded.lookup == len(encoded.ids) - 1
    assert spelled(bare.tokenizer, encoded.ids).strip().startswith(fact.subject)
    assert encoded.ids == tuple(bare.tokenizer(f"{fact.subject} is a")["input_ids"][: len(encoded.ids)])


def test_bos_is_there_when_the_tokenizer_gives_one():
    for bos in (False, True):
        tokenizer = tiny_models.byte_level_tokenizer(bos=bos)
        encoded = encode(Bare(tokenizer), "France", "Paris", subject_end=6)
        assert (encoded.ids[0] == tokenizer.bos_token_id) == bos
        assert encoded.lookup == int(bos) + len(tiny_models.byte_level_tokenizer()("France")["input_ids"]) - 1


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The capital is", "Rome", "The capital is Rome"),
        ("The capital is ", "Rome", "The capital is Rome"),
        ("The capital is   ", " Rome", "The capital is Rome"),
        ("A:\n", "Rome", "A:\nRome"),
        ("A:\n  ", "Rome", "A:\nRome"),
        ("A\t", "\n Rome", "A\tRome"),
    ],
)
def test_one_blank_between_prompt_and_answer(bare, prompt, target, text):
    assert joined(prompt, target) == text
    assert encode(bare, prompt, target).ids == encode(bare, text).ids
    # Without an answer the prompt has no blank at its end that the answer's first token would carry.
    assert encode(bare, prompt).ids == encode(bare, prompt.rstrip(" ")).ids


def test_texts_that_are_too_long_are_refused_with_both_counts(gpt2):
    long = "France is large, and " * 60
    n_tokens = len(gpt2.tokenizer(f"{long}the capital is Rome")["input_ids"])
    with pytest.raises(InputError, match=rf"has {n_tokens} tokens.* {gpt2.max_length}"):
        encode(gpt2, f"{long}the capital is", "Rome")
    with pytest.raises(InputError, match=str(gpt2.max_length)):
        encode_fact(gpt2, Fact("very " * 200 + "long", "The capital of {} is", "Rome"))
    # The longest that fits is fine.
    text = " the" * gpt2.max_length
    assert len(gpt2.tokenizer(text)["input_ids"]) == gpt2.max_length
    assert len(encode(gpt2, text).ids) == gpt2.max_length


def test_a_prompt_without_a_token_is_refused():
    with pytest.raises(InputError, match="no token"):
        encode(Bare(tiny_models.byte_level_tokenizer()), "  ")


def dropping_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose normalizer drops what it does not know, as those of some families do."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "France": 1, "is": 2, "Rome": 3, "of": 4}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("\ufe0f", "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>")


def test_a_subject_whose_last_character_has_no_token():
    """A variation selector that the normalizer drops: the subject's last token is the one before it."""
    bare = Bare(dropping_tokenizer())
    encoded = encode_fact(bare, Fact("France\ufe0f", "of {} is", "Rome"))
    assert (encoded.ids, encoded.lookup, encoded.n_target) == ((4, 1, 2, 3), 1, 1)


def test_a_subject_or_an_answer_without_any_token_is_refused():
    with pytest.raises(InputError, match="subject"):
        encode(Bare(dropping_tokenizer()), "\ufe0f is", "Rome", subject_end=1)
    with pytest.raises(InputError, match=r"Answer .* has no token"):
        encode(Bare(dropping_tokenizer()), "France is", "\ufe0f")


def test_sampled_prefixes(lm):
    prefixes = sample_prefixes(lm, 3)
    assert len(prefixes) == len(PREFIX_STARTS) == 5
    assert prefixes == sample_prefixes(lm, 3)
    assert prefixes != sample_prefixes(lm, 4)
    for prefix, start in zip(prefixes, PREFIX_STARTS, strict=True):
        assert prefix.startswith(start)


def test_logits_that_are_not_finite_give_no_prefixes(lm):
    """In one line, whatever made them so: the weights of a model were looked at when it was loaded."""
    for value in (torch.nan, torch.inf):
        poisoned = torch.full_like(lm.parameter(0), value)
        with lm.matrices_replaced({0: poisoned}):
            message = refusal(sample_prefixes, lm, 0)
        assert "logits that are not finite after 'The'" in message and lm.name in message
    assert len(sample_prefixes(lm, 0)) == len(PREFIX_STARTS)


def test_sampled_prefixes_are_among_the_five_most_probable(llama):
    """Each token of a prefix is one of the five that a plain forward pass ranks highest, and there are ten."""
    ids = []

    class Spy:
        def __getattr__(self, name):
            return getattr(llama.tokenizer, name)

        def __call__(self, *args, **kwargs):
            return llama.tokenizer(*args, **kwargs)

        def decode(self, row, **kwargs):
            ids.append(list(row))
            return llama.tokenizer.decode(row, **kwargs)

    import dataclasses

    sample_prefixes(dataclasses.replace(llama, tokenizer=Spy()), 0)
    assert [len(row) for row in ids] == [10] * 5
    for row, start in zip(ids, PREFIX_STARTS, strict=True):
        given = len(llama.tokenizer(start)["input_ids"])
        with torch.no_grad():
            logits = llama.model(torch.tensor([row])).logits[0]
        for position in range(given, 10):
            assert row[position] in logits[position - 1].topk(5).indices.tolist()


class TestKeptPrefixes:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ENCORE_HOME", str(tmp_path))

    def file(self, lm, seed) -> Path:
        return data_folder() / "prefixes" / lm.fingerprint / f"{seed}.json"

    def test_they_are_sampled_once_a_seed(self, llama, monkeypatch):
        first = prompts_module.prefixes(llama, 3)
        assert first == sample_prefixes(llama, 3)
        assert prompts_module.prefixes(llama, 4) == sample_prefixes(llama, 4)
        monkeypatch.setattr(prompts_module, "sample_prefixes", None)
        assert prompts_module.prefixes(llama, 3) == first

    @pytest.mark.parametrize("content", ["", "[1, 2]", '["a"]', "{", "null", "[1, 2, 3, 4, 5]"])
    def test_a_damaged_file_is_replaced(self, llama, content, caplog):
        file = self.file(llama, 3)
        file.parent.mkdir(parents=True)
        file.write_text(content)
        assert prompts_module.prefixes(llama, 3) == sample_prefixes(llama, 3)
        assert "sampled again" in caplog.text
        assert json.loads(file.read_text()) == list(sample_prefixes(llama, 3))

    def test_a_full_disk_costs_nothing_but_the_file(self, llama, monkeypatch, caplog):
        @contextmanager
        def full(path):
            yield from ()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prompts_module, "replacing", full)
        assert prompts_module.prefixes(llama, 3) == sample_prefixes(llama, 3)
        assert "cannot be written to" in caplog.text
        assert not self.file(llama, 3).exists()
