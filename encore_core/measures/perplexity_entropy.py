"""Whether the model still writes fluently: perplexity on a fixed text, and how varied its own continuations are.

    perplexity          exp( mean over tokens of −log p(token | tokens before) )
    generation entropy  (H₂ + 2 H₃) / 3 × 100,   H_n = −Σ_g f(g) log₂ f(g) over the n-grams g of words of a continuation

A model that edits have broken repeats itself, which lowers the entropy (to 0 when it stutters one word), or loses its
language, which raises the perplexity. The entropy is that of the editing literature: 100 tokens, each sampled from the
five most probable ones, averaged over prompts. Words are split by a rule, not by a tokenizer, so that models with
different tokenizers can be compared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import GrowingPrefix, end_tokens
from encore_core.forward.prompts import batches_by_length, encode, pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import run
from encore_core.models.editable import EditableModel
from encore_core.resources import ASSETS

FIXED_TEXT = ASSETS / "text" / "fluency.txt"
"""Prose written for this project, see the README beside it."""

WINDOW = 512
"""Tokens read as one sequence."""

MAX_TOKENS = 2048
"""Tokens read at a time."""

MAX_LOGITS = 1 << 24
"""Logits held at a time (64 MB)."""

MAX_GENERATED = 8192
"""Tokens, prompts included, whose keys and values are held at a time while sampling."""

TOP_K = 5


# -- perplexity --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def perplexity(lm: EditableModel, text: str | None = None, n_tokens: int | None = None) -> float:
    """Perplexity on a text.

    The text is read in windows of 512 tokens, or of the model's context where that is shorter. Each begins with the
    BOS or start token, or, where there is none, with the last token of the window before. So every token of the text
    is predicted exactly once (without a token in front, all but the first).

    Args:
        lm: the model, with whatever edits are in place.
        text: the text; `FIXED_TEXT` by default.
        n_tokens: predict only this many tokens at the start of the text; all by default.

    Returns:
        the perplexity; infinite when it is too large for a float64, NaN when the model's logits are NaN.

    Raises:
        InputError: when the text has no token to predict, or `n_tokens` is below 1.
    """
    if n_tokens is not None and n_tokens < 1:
        raise InputError(f"n_tokens {n_tokens} is too small; give a whole number from 1.")
    windows, n_before = _windows(lm, _fixed_text() if text is None else text, n_tokens)
    total, count = 0.0, 0
    with lm.lock:
        for start in range(0, len(windows), max(1, MAX_TOKENS // len(windows[0]))):
            rows = windows[start : start + max(1, MAX_TOKENS // len(windows[0]))]
            total += _negative_log_likelihood(lm, rows, n_before)
            count += sum(len(row) - n_before for row in rows)
    mean = total / count
    return math.exp(mean) if mean < 709 or math.isnan(mean) else math.inf


def _fixed_text() -> str:
    try:
        return FIXED_TEXT.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"The text for perplexity, {FIXED_TEXT}, cannot be read: {error}") from error


def _windows(lm: EditableModel, text: str, n_tokens: int | None) -> tuple[list[tuple[int, ...]], int]:
    """Token sequences that together predict every token once, and how many at the start of each are only read."""
    (tokens,) = tokens_of(lm, [text])
    n_before = max(1, tokens.n_added)
    before, rest = tokens.ids[:n_before], tokens.ids[n_before:]
    rest = rest[:n_tokens]
    if not rest:
        raise InputError(f"Text {quoted(text)} has no token to predict; perplexity needs at least two tokens.")
    step = min(WINDOW, lm.max_length) - n_before
    windows = []
    for start in range(0, len(rest), step):
        piece = rest[start : start + step]
        windows.append((*before, *piece))
        before = before if tokens.n_added else piece[-1:]
    return windows, n_before


def _negative_log_likelihood(lm: EditableModel, rows: Sequence[tuple[int, ...]], n_before: int) -> float:
    """−log p summed over the tokens of some windows, without the first `n_before` of each."""
    batch = pad(lm, rows)
    hidden = run(lm, batch.ids, batch.mask, stop=lm.n_layers)
    places = [(row, column) for row, ids in enumerate(rows) for column in range(n_before - 1, len(ids) - 1)]
    total = 0.0
    step = max(1, MAX_LOGITS // len(lm.model.get_output_embeddings().weight))
    for start in range(0, len(places), step):
        at = torch.tensor(places[start : start + step], device=lm.device).T
        # All blocks have been run; only the final norm, and the output matrix at these positions, are still to do.
        logits = run(lm, batch.ids, batch.mask, start=lm.n_layers, hidden=hidden, logits_at=(at[0], at[1])).float()
        wanted = batch.ids[at[0], at[1] + 1]
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        total += float((logits.logsumexp(-1) - chosen).cpu().double().sum())
    return total


# -- generation entropy ------------------------------------------------------------------------------------------------


def generation_entropy(
    lm: EditableModel, prompts: Sequence[str], n_tokens: int = 100, seed: int = 0, top_k: int = TOP_K
) -> float:
    """How varied sampled continuations are: (H₂ + 2 H₃) / 3 × 100, in bits, averaged over prompts.

    Args:
        lm: the model, with whatever edits are in place.
        prompts: beginnings; they themselves do not count.
        n_tokens, seed, top_k: see `sample_continuations`.

    Returns:
        the entropy; NaN when the model's logits are not finite.

    Raises:
        InputError: without a prompt, or when one does not fit.
    """
    if not prompts:
        raise InputError("There is no prompt to continue; give at least one.")
    texts = sample_continuations(lm, prompts, n_tokens, seed, top_k)
    return sum(math.nan if text is None else text_entropy(text) for text in texts) / len(texts)


def text_entropy(text: str) -> float:
    """(H₂ + 2 H₃) / 3 × 100 of one text. A word is a run of letters and digits, or any other mark on its own."""
    words = re.findall(r"\w+|[^\w\s]", text)
    return 100 * (ngram_entropy(words, 2) + 2 * ngram_entropy(words, 3)) / 3


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """H_n in bits; 0 for a text of fewer than n words."""
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


@torch.no_grad()
def sample_continuations(
    lm: EditableModel, prompts: Sequence[str], n_tokens: int = 100, seed: int = 0, top_k: int = TOP_K
) -> list[str | None]:
    """Continue prompts by sampling from the most probable tokens.

    A prompt's continuation depends only on the seed and the prompt (and how often it has occurred before), not on
    torch's random state or the other prompts, except for rounding: a pass over other rows may differ in the last
    digit. Tokens that end a text, and other special ones, are never drawn, so that all continuations are equally long:
    a short text has a low entropy just because it is short.

    Args:
        lm: the model, with whatever edits are in place.
        prompts: beginnings.
        n_tokens: length of a continuation.
        seed: of the sampling.
        top_k: how many of the most probable tokens to draw from.

    Returns:
        the continuations without their prompts; None where the model's logits are not finite.

    Raises:
        InputError: when a prompt and its continuation do not fit into the model's context, or a number is below 1.
    """
    for name, value in (("n_tokens", n_tokens), ("top_k", top_k)):
        if value < 1:
            raise InputError(f"{name} {value} is too small; give a whole number from 1.")
    rows = [encode(lm, prompt).ids for prompt in prompts]
    for prompt, ids in zip(prompts, rows, strict=True):
        if len(ids) + n_tokens > lm.max_length:
            raise InputError(
                f"Prompt {quoted(prompt)} has {len(ids)} tokens, which leaves no room for {n_tokens} more in the "
                f"model's {lm.max_length}; shorten it."
            )
    draws = list(_draws(prompts, n_tokens, seed))
    found: list[str | None] = [None] * len(prompts)
    with lm.lock:
        for group in batches_by_length([len(ids) + n_tokens for ids in rows], MAX_GENERATED):
            drawn, sound = _sample(lm, [rows[i] for i in group], torch.stack([draws[i] for i in group]), top_k)
            for index, ids, whole in zip(group, drawn, sound, strict=True):
                found[index] = lm.tokenizer.decode(ids) if whole else None
    return found


def _draws(prompts: Sequence[str], n_tokens: int, seed: int) -> Iterator[torch.Tensor]:
    """For each prompt, (n_tokens,) random numbers from [0, 1), float64."""
    seen: Counter[str] = Counter()
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed}/{seen[prompt]}/{prompt}".encode()).digest()
        seen[prompt] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield torch.rand(n_tokens, generator=generator, dtype=torch.float64)


def _sample(
    lm: EditableModel, rows: Sequence[tuple[int, ...]], draws: torch.Tensor, top_k: int
) -> tuple[list[list[int]], list[bool]]:
    """Tokens for each row, one per draw (n_rows, n_tokens), and whether the row's logits were all finite."""
    n_tokens = draws.shape[1]
    batch = pad(lm, rows)
    cache = GrowingPrefix(lm, len(rows), batch.ids.shape[1] + n_tokens - 1)
    everyone = torch.arange(len(rows), device=lm.device)
    logits = cache.run(lm, batch.ids, batch.mask, logits_at=(everyone, batch.mask.sum(-1) - 1))
    n_vocab = logits.shape[-1]
    never = torch.tensor(
        sorted(token for token in {*end_tokens(lm), *lm.special_ids} if token < n_vocab),
        dtype=torch.long,
        device=lm.device,
    )
    sound = torch.ones(len(rows), dtype=torch.bool)
    drawn: list[torch.Tensor] = []
    for step in range(n_tokens):
        if step:
            token = drawn[-1].to(lm.device)[:, None]
            logits = cache.run(lm, token, torch.ones_like(token))[:, 0]
        # Sorted by id, so that rounding cannot swap two tokens that are almost equally probable.
        top = logits.float().index_fill(1, never, -math.inf).topk(min(top_k, n_vocab - len(never)))
        ids, order = top.indices.cpu().sort(dim=-1)
        probabilities = top.values.cpu().double().gather(1, order).softmax(-1)
        sound &= probabilities.isfinite().all(-1)
        chosen = (draws[:, step, None] >= probabilities.cumsum(-1)).sum(-1).clamp_max(ids.shape[1] - 1)
        drawn.append(ids.gather(1, chosen[:, None])[:, 0])
    return torch.stack(drawn, dim=1).tolist(), sound.tolist()
