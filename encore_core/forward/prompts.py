"""From text to token positions: the contexts a fact is shown in, its subject's last token, its target's tokens.

Positions come from the tokenizer's character offsets, never from counting tokens of a part tokenised on its own: that
goes wrong with BOS tokens, merged blanks and tokens that straddle a border.

If the subject is the first token of its text, it is an attention sink: its state is many times as long as any other,
and later tokens read next to nothing of it (see `tokens`). Where no BOS or start token takes that position, a fact's
plain prompt is therefore replaced by the prompt after the first sampled prefix (`encode_contexts`), because neither
keys nor h nor the clamp may come from a sink. The published code does take them from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.facts.joining import joined, joint
from encore_core.forward.tokens import Tokens, tokens_of
from encore_core.models.editable import EditableModel
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

PREFIX_STARTS = ("The", "Therefore", "Because", "I", "You")
PREFIX_TOKENS = 10


@dataclass(frozen=True)
class Encoded:
    """A prompt with its continuation as tokens.

    Attributes:
        ids: token ids of prompt and continuation together.
        lookup: index of the subject's last token, or -1 when no subject was given.
        n_target: how many tokens at the end belong to the continuation.
    """

    ids: tuple[int, ...]
    lookup: int
    n_target: int

    @property
    def n_prompt(self) -> int:
        """How many tokens belong to the prompt."""
        return len(self.ids) - self.n_target

    @property
    def on_sink(self) -> bool:
        """Whether the subject is the first token, and so an attention sink."""
        return self.lookup == 0

    @property
    def read(self) -> Encoded:
        """The same without the continuation's last token, which is only predicted, never read."""
        return Encoded(self.ids[:-1], self.lookup, self.n_target - 1)

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Token ids of the continuation."""
        return self.ids[self.n_prompt :]


class Text(NamedTuple):
    """A text to be tokenised.

    Attributes:
        prompt: its beginning.
        target: the continuation; may be empty.
        subject_end: index just after the subject's last character in the prompt; None without a subject.
        join: what goes between prompt and target; None lets the texts decide (see `joining`).
    """

    prompt: str
    target: str = ""
    subject_end: int | None = None
    join: str | None = None

    @property
    def stem(self) -> str:
        """The prompt without the blanks at its end, which belong to the target's first token."""
        return self.prompt.rstrip(" ")


def encode(lm: EditableModel, prompt: str, target: str = "", subject_end: int | None = None) -> Encoded:
    """Tokenise a prompt with its continuation, see `encode_all`."""
    return encode_all(lm, [Text(prompt, target, subject_end)])[0]


def encode_all(lm: EditableModel, texts: Sequence[Text], bare: bool = False) -> list[Encoded]:
    """Tokenise prompts with their continuations; all at once, because each call of a tokenizer has a high overhead.

    Args:
        lm: gives the tokenizer, the start token and the longest context.
        texts: prompts, continuations and ends of subjects.
        bare: leave out the start token, see `tokens.tokens_of`.

    Raises:
        InputError: when a text does not fit into the model's context, or prompt, subject or target have no token.
    """
    whole = [joined(text.prompt, text.target, text.join) if text.target else text.stem for text in texts]
    found = tokens_of(lm, whole, bare)
    # If nothing separates the two, a token may straddle the border. A program that reads the prompt alone sees the
    # prompt's own tokens there, so these are used for editing and scoring as well.
    unparted = [
        place for place, text in enumerate(texts) if text.target and not joint(text.prompt, text.target, text.join)
    ]
    alone = tokens_of(lm, [texts[place].stem for place in unparted], bare)
    for place, prompt in zip(unparted, alone, strict=True):
        n, length = len(prompt.ids), len(texts[place].stem)
        # The "unknown" token may represent the prompt's last word as well as that word joined to the answer.
        reaches_over = found[place].ids[:n] != prompt.ids or any(end > length for _, end in found[place].offsets[:n])
        if reaches_over:
            found[place] = _behind(lm, prompt, texts[place]) or found[place]
    return [_located(lm, text, tokens) for text, tokens in zip(texts, found, strict=True)]


def _behind(lm: EditableModel, prompt: Tokens, text: Text) -> Tokens | None:
    """A prompt's own tokens followed by the target's; None if the target has none of its own."""
    # After a line end no tokenizer adds a blank, as many do at the beginning of a text.
    (tail,) = tokens_of(lm, [f"\n{text.target.lstrip()}"], bare=True)
    own = [(token, span) for token, span in zip(tail.ids, tail.offsets, strict=True) if span[1] > 1]
    if not own or own[0][1][0] < 1:
        return None
    moved = len(text.stem) - 1
    return Tokens(
        (*prompt.ids, *(token for token, _ in own)),
        (*prompt.offsets, *((start + moved, end + moved) for _, (start, end) in own)),
        prompt.n_added,
    )


def _located(lm: EditableModel, text: Text, found: Tokens) -> Encoded:
    """Find subject and target among a text's tokens."""
    prompt, target, subject_end = text.prompt, text.target, text.subject_end
    stem, ids, offsets = text.stem, found.ids, found.offsets
    if len(ids) == found.n_added:
        raise InputError(f"Prompt {quoted(prompt)} has no token for this model; write at least one word.")
    if len(ids) > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {len(ids)} tokens, but the model takes at most {lm.max_length}; shorten it."
        )
    # The prompt ends with the last token whose characters all lie in it. So a token that straddles the border belongs
    # to the answer, and so does a separate blank, to which some tokenizers give an empty span. Several tokens can share
    # the span of one character (bytes of an emoji).
    shown = [i for i, (start, end) in enumerate(offsets) if start < end <= len(stem)]
    n_target = len(ids) - 1 - max(shown, default=found.n_added - 1) if target else 0
    if target and not any(start < end for start, end in offsets[len(ids) - n_target :]):
        raise InputError(f"Answer {quoted(target)} has no token for this model; write it in other characters.")
    lookup = -1
    if subject_end is not None:
        # If the tokenizer drops the last character, the token before it counts.
        reaching = [i for i, (start, end) in enumerate(offsets) if start < subject_end and end > start]
        if not reaching:
            raise InputError(f"The subject in {quoted(prompt)} has no token for this model; write it differently.")
        lookup = reaching[-1]
    return Encoded(ids, lookup, n_target)


def encode_fact(lm: EditableModel, fact: Fact, prefix: str = "") -> Encoded:
    """The fact's prompt and new target as tokens, with an optional prefix sentence before them."""
    return encode_all(lm, [_context(fact, prefix)])[0]


def encode_contexts(lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[tuple[Encoded, ...]]:
    """Facts in their contexts: for each, the plain prompt with its target, and the same after each sampled prefix."""
    leads = ("", *prefixes)
    encoded = encode_all(lm, [_context(fact, lead) for fact in facts for lead in leads])
    of_facts = [tuple(encoded[start : start + len(leads)]) for start in range(0, len(encoded), len(leads))]
    return [(of_fact[1], *of_fact[1:]) if of_fact[0].on_sink and prefixes else of_fact for of_fact in of_facts]


def on_sink(lm: EditableModel, facts: Sequence[Fact]) -> list[Fact]:
    """The facts whose subject is the first token of their text, of which the model reads next to nothing."""
    encoded = encode_all(lm, [_context(fact, "") for fact in facts])
    return [fact for fact, one in zip(facts, encoded, strict=True) if one.on_sink]


def _context(fact: Fact, prefix: str) -> Text:
    lead = f"{prefix}. " if prefix else ""
    return Text(lead + fact.text, fact.target_new, len(lead) + fact.subject_span[1], fact.join)


def encode_subject_prompts(lm: EditableModel, facts: Sequence[Fact]) -> list[Encoded]:
    """ "{subject} is a", at whose subject position the model's prediction must stay as it was (the KL term).

    Each is cut after that position, because later tokens cannot change what is read there.
    """
    whole = encode_all(lm, [Text(f"{fact.subject} is a", subject_end=len(fact.subject)) for fact in facts])
    return [Encoded(one.ids[: one.lookup + 1], one.lookup, 0) for one in whole]


def sample_prefixes(lm: EditableModel, seed: int) -> tuple[str, ...]:
    """Sample the prefixes that, put before a prompt, make its other contexts: 10 tokens each, top-k 5.

    Args:
        lm: the *base* model; every method in a comparison sees the same prefixes.
        seed: of the sampling, which has its own generator.

    Returns:
        one text for each of `PREFIX_STARTS`.

    Raises:
        InputError: when the model's logits are not finite.
    """
    rows = [list(encode(lm, start).ids) for start in PREFIX_STARTS]
    # As published, a BOS that the tokenizer adds counts as one of the ten; a start token does not.
    length = PREFIX_TOKENS + (lm.start_token is not None)
    generator = torch.Generator().manual_seed(seed)
    with lm.lock, torch.no_grad():
        while growing := [row for row in rows if len(row) < length]:
            batch = pad(lm, growing)
            logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
            for number, row in enumerate(growing):
                last = logits[number, len(row) - 1].float().cpu()
                if not bool(last.max().isfinite()):  # a NaN is the largest of all
                    raise InputError(
                        f"Model {quoted(lm.name)} gives logits that are not finite after "
                        f"{quoted(lm.tokenizer.decode(row, skip_special_tokens=True))}, so no prefixes can be sampled; "
                        "its weights are damaged, or too large for their number format."
                    )
                top = last.topk(min(5, len(last)))
                row.append(int(top.indices[torch.multinomial(top.values.softmax(-1), 1, generator=generator)]))
    return tuple(lm.tokenizer.decode(row, skip_special_tokens=True) for row in rows)


def prefixes(lm: EditableModel, seed: int) -> tuple[str, ...]:
    """The sampled prefixes of a seed, from the data folder where they have been sampled before."""
    file = data_folder() / "prefixes" / lm.texts_key / f"{seed}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if len(found) == len(PREFIX_STARTS) and all(isinstance(text, str) for text in found):
            return tuple(found)
        log.warning("The prefixes in %s are not %d texts; they are sampled again.", file, len(PREFIX_STARTS))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        log.warning("The prefixes in %s cannot be read (%s); they are sampled again.", file, error)
    sampled = sample_prefixes(lm, seed)
    try:
        with replacing(file) as part:
            part.write_text(json.dumps(sampled, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        log.warning("The sampled prefixes cannot be written to %s (%s).", file, error)
    return sampled


@dataclass(frozen=True)
class Padded:
    """Sequences of unequal length as one batch, padded on the right.

    Attributes:
        ids: (n_rows, length).
        mask: (n_rows, length), 1 at tokens and 0 at padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor


def pad(lm: EditableModel, sequences: Sequence[Sequence[int]]) -> Padded:
    """Make a batch of token sequences, padded on the right whatever the tokenizer's default is.

    Padding on the right leaves positions correct in every model family, and a causal model cannot see it.
    """
    length = max(len(sequence) for sequence in sequences)
    # Any token will do as padding, but the embedding must have a row for it.
    padding = lm.tokenizer.pad_token_id or 0
    ids = torch.full((len(sequences), length), padding if padding < lm.n_vocab else 0, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Padded(ids.to(lm.device), mask.to(lm.device))


def tokens_of_pass(lm: EditableModel) -> int:
    """Tokens to run at once without gradients, where rows of unequal length are padded to the longest.

    A processor's matrix units are busy with a few hundred: more of them only bring more padding. A GPU wants thousands.
    """
    return 512 if lm.device.type == "cpu" else 16384


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped by length, so that there is little padding and no group of several exceeds `max_tokens`."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        # Sorted from long to short: a group's first member is its longest.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
