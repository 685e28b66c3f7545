"""From text to token positions: the contexts a fact is shown in, its subject's last token, its target's tokens.

Positions come from the tokenizer's character offsets, never from counting tokens of a part tokenised on its own: that
goes wrong with BOS tokens, merged blanks and tokens that straddle a border.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.models import EditableModel
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
        return len(self.ids) - self.n_target

    @property
    def read(self) -> Encoded:
        """Without the last token of the continuation, which is only predicted, never read."""
        return Encoded(self.ids[:-1], self.lookup, self.n_target - 1)

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.n_prompt :]


def joined(prompt: str, target: str) -> str:
    """The prompt continued by the target, with one blank between them unless the prompt ends a line."""
    stem = prompt.rstrip(" ")
    return stem + target.lstrip() if stem.endswith(("\n", "\t")) else f"{stem} {target.lstrip()}"


Unencoded = tuple[str, str, int | None]
"""Of a text to be tokenised: the prompt, its continuation (may be empty), and the index just behind the subject's last
character in the prompt (None without a subject)."""


def encode(lm: EditableModel, prompt: str, target: str = "", subject_end: int | None = None) -> Encoded:
    """Tokenise a prompt with its continuation, see `encode_all`."""
    return encode_all(lm, [(prompt, target, subject_end)])[0]


def encode_all(lm: EditableModel, texts: Sequence[Unencoded]) -> list[Encoded]:
    """Tokenise prompts with their continuations; together, because a call of a tokenizer costs more than its work.

    Args:
        lm: gives the tokenizer and the longest context.
        texts: prompts, continuations and ends of subjects.

    Raises:
        InputError: when a text does not fit into the model's context, or prompt, subject or target have no token.
    """
    if not texts:
        return []
    whole = [joined(prompt, target) if target else prompt.rstrip(" ") for prompt, target, _ in texts]
    found = lm.tokenizer(whole, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    columns = (found[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    return [_located(lm, *text, *of_text) for text, *of_text in zip(texts, *columns, strict=True)]


def _located(
    lm: EditableModel,
    prompt: str,
    target: str,
    subject_end: int | None,
    ids: list[int],
    offsets: list[tuple[int, int]],
    added: list[int],
) -> Encoded:
    """Where subject and target stand among a text's tokens."""
    stem = prompt.rstrip(" ")
    # A BOS in front is what the model expects; an EOS that some tokenizers put behind would end the text.
    while ids and added[-1]:
        ids, offsets, added = ids[:-1], offsets[:-1], added[:-1]
    if not ids:
        raise InputError(f"Prompt {quoted(prompt)} has no token for this model; write at least one word.")
    if len(ids) > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {len(ids)} tokens, but the model takes at most {lm.max_length}; shorten it."
        )
    # The prompt ends with its last token that shows a character of it, so a token that straddles the border is the
    # answer's, and so is a blank on its own, to which some tokenizers give an empty span. Several tokens can share the
    # span of one character (bytes of an emoji).
    shown = [i for i, (start, end) in enumerate(offsets) if start < end <= len(stem)]
    n_target = len(ids) - 1 - max(shown, default=_last_added(added)) if target else 0
    if target and not any(start < end for start, end in offsets[len(ids) - n_target :]):
        raise InputError(f"Answer {quoted(target)} has no token for this model; write it in other characters.")
    lookup = -1
    if subject_end is not None:
        # A last character that the tokenizer drops has no token of its own; then the one before it counts.
        reaching = [i for i, (start, end) in enumerate(offsets) if start < subject_end and end > start]
        if not reaching:
            raise InputError(f"The subject in {quoted(prompt)} has no token for this model; write it otherwise.")
        lookup = reaching[-1]
    return Encoded(tuple(ids), lookup, n_target)


def _last_added(added: Sequence[int]) -> int:
    """Index of the last of the tokens that a tokenizer puts in front, -1 without any."""
    return next((i for i, special in enumerate(added) if not special), len(added)) - 1


def encode_fact(lm: EditableModel, fact: Fact, prefix: str = "") -> Encoded:
    """The fact's prompt and new target as tokens, with an optional prefix sentence before them."""
    return encode_all(lm, [_context(fact, prefix)])[0]


def encode_contexts(lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[tuple[Encoded, ...]]:
    """Facts in their contexts: per fact the plain prompt with its target, and the same behind each sampled prefix."""
    leads = ("", *prefixes)
    encoded = encode_all(lm, [_context(fact, lead) for fact in facts for lead in leads])
    return [tuple(encoded[start : start + len(leads)]) for start in range(0, len(encoded), len(leads))]


def _context(fact: Fact, prefix: str) -> Unencoded:
    lead = f"{prefix}. " if prefix else ""
    return lead + fact.text, fact.target_new, len(lead) + fact.subject_span[1]


def encode_subject_prompts(lm: EditableModel, facts: Sequence[Fact]) -> list[Encoded]:
    """ "{subject} is a", at whose subject position the model must stay as it was (the KL term), cut behind it.

    Nothing behind the lookup position can change what is read there, so nothing behind it is kept.
    """
    whole = encode_all(lm, [(f"{fact.subject} is a", "", len(fact.subject)) for fact in facts])
    return [Encoded(one.ids[: one.lookup + 1], one.lookup, 0) for one in whole]


def sample_prefixes(lm: EditableModel, seed: int) -> tuple[str, ...]:
    """The sampled prefixes that stand before a prompt as its other contexts: 10 tokens each, top-k 5.

    Args:
        lm: the *base* model; every method in a comparison sees the same prefixes.
        seed: of the sampling, which has a generator of its own.

    Returns:
        one text for each of `PREFIX_STARTS`.

    Raises:
        InputError: when the model's logits are not finite.
    """
    rows = [list(encode(lm, start).ids) for start in PREFIX_STARTS]
    generator = torch.Generator().manual_seed(seed)
    with lm.lock, torch.no_grad():
        while growing := [row for row in rows if len(row) < PREFIX_TOKENS]:
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
    file = data_folder() / "prefixes" / lm.fingerprint / f"{seed}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if len(found) == len(PREFIX_STARTS) and all(isinstance(text, str) for text in found):
            return tuple(found)
        log.warning("The prefixes in %s are not %d texts; they are sampled anew.", file, len(PREFIX_STARTS))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        log.warning("The prefixes in %s cannot be read (%s); they are sampled anew.", file, error)
    sampled = sample_prefixes(lm, seed)
    try:
        with replacing(file) as part:
            part.write_text(json.dumps(sampled, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        log.warning("The sampled prefixes cannot be kept in %s (%s).", file, error)
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
    """Put token sequences side by side, padded on the right whatever the tokenizer's default is.

    Padding on the right needs no care with positions in any model family, and a causal model cannot see it.
    """
    length = max(len(sequence) for sequence in sequences)
    # Which token stands at padding does not matter, but the embedding must have a row for it.
    padding = lm.tokenizer.pad_token_id or 0
    ids = torch.full((len(sequences), length), padding if padding < lm.n_vocab else 0, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Padded(ids.to(lm.device), mask.to(lm.device))


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped so that each group's padded size stays below `max_tokens` and little of it is padding."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        # Sorted from long to short: a group's first member is its longest.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
