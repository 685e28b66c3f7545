"""From text to token ids, with the model's start token in front; every text that is run passes through here.

The first token of a text is an attention sink: later tokens read next to nothing of it. Many tokenizers put a BOS
there. For models whose tokenizer does not, `EditableModel.start_token` takes that position (see `start_token`), in
everything alike: targets, keys, statistics, scores, probes, generation, perplexity and contributions. A text that
begins with a special token itself, as chat templates do, gets no start token, and a BOS that the text contains already
is not added twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class Tokens:
    """A text as tokens, with what is put in front of it and without what the tokenizer appends.

    Attributes:
        ids: token ids.
        offsets: for each token the characters that it shows, start and end (exclusive).
        n_added: how many tokens at the start are not from the text (BOS, start token).
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    n_added: int


def tokens_of(lm: EditableModel, texts: Sequence[str], bare: bool = False) -> list[Tokens]:
    """Texts as tokens, whatever their length; see `prompts.encode` for prompts that must fit.

    Args:
        lm: gives tokenizer and start token.
        texts: an empty text has only the tokens in front.
        bare: leave out the start token, as programs do that put none in front.
    """
    if not texts:
        return []
    found = lm.tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, padding=False, verbose=False
    )
    columns = (found[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    return [_begun(lm, *of_text, bare) for of_text in zip(*columns, strict=True)]


def whole_texts(lm: EditableModel, texts: Sequence[str]) -> list[Tokens]:
    """Texts that hold all their special tokens, as a chat template writes them: nothing is put in front or behind.

    Args:
        lm: gives the tokenizer.
        texts: the same tokens as transformers' `apply_chat_template` gives for them.
    """
    if not texts:
        return []
    found = lm.tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, padding=False, verbose=False
    )
    return [
        Tokens(tuple(ids), tuple(offsets), 0)
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _begun(lm: EditableModel, ids: list[int], offsets: list[tuple[int, int]], added: list[int], bare: bool) -> Tokens:
    """A text's tokens from the tokenizer's output, with the right beginning and end."""
    own = [position for position, special in enumerate(added) if not special]
    # A special token that the text itself contains is marked like one that the tokenizer added, but shows characters.
    own += [position for position, (start, end) in enumerate(offsets) if start < end]
    first, stop = (min(own), max(own) + 1) if own else (len(ids), len(ids))
    if 0 < first < stop and ids[first] == ids[first - 1] and ids[first] in lm.special_ids:
        first, ids, offsets, stop = first - 1, ids[1:], offsets[1:], stop - 1
    front: tuple[int, ...] = ()
    begins_itself = first < stop and ids[first] in lm.special_ids
    if lm.start_token is not None and not bare and not first and not begins_itself:
        front = (lm.start_token,)
    kept = tuple((start, end) for start, end in offsets[:stop])
    return Tokens((*front, *ids[:stop]), (*((0, 0) for _ in front), *kept), first + len(front))
