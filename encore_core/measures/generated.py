"""What a model answers when nobody hands it the answer's first tokens: greedy texts with a natural end.

Teacher-forced scores ask how probable an answer is. Here the model writes, and the text ends where a reader would say
that the answer is over: at the end of its first sentence or line, at a token that ends texts, or after at most so many
tokens (WILD, arXiv 2502.11177). `answers_right` compares texts with answers.

Texts are written for many prompts at once. What all prompts of a batch begin with is run once; texts that have ended
leave the batch. A guess, such as the answer that an edit asked for, is checked in the pass that reads the prompt, so
that texts which begin with it take few passes more; the texts do not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import GrowingPrefix, end_tokens, shared_start
from encore_core.forward.prompts import Text, batches_by_length, encode_all, pad
from encore_core.forward.tokens import whole_texts
from encore_core.models.editable import EditableModel

MAX_TOKENS = 8192
TOKENS, CHAT_TOKENS = 12, 24
"""Longest text, in tokens, unless a caller says otherwise: in a chat many answers begin by repeating the question."""

CHATS = ("auto", "yes", "no")
"""Whether prompts are put into the chat template; auto: where the model has one."""

_SENTENCE = re.compile(r"""(?P<word>[^\W\d_]*)[.!?]["'”’)]*(?=\s)|[。！？]""")
_NO_END = frozenset(
    ("st", "mt", "ft", "mr", "mrs", "ms", "dr", "jr", "sr", "prof", "gen", "col", "capt", "no", "vs", "etc", "inc",
     "ltd", "co", "corp", "al", "fig", "approx")
)  # fmt: skip
"""Words, without capitals, whose full stop ends no sentence; so does that of a single letter (an initial)."""


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are written.

    Attributes:
        tokens: at most how many.
        chat: put each prompt into the model's chat template, as a user's message. For models that have one.
        whole: go on beyond the end of the sentence or line, to a token that ends texts or to the full length, and keep
            the blanks around the text.

    Raises:
        InputError: for a length that cannot be used.
    """

    tokens: int = TOKENS
    chat: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= 1000:
            raise InputError(f"{self.tokens} tokens cannot be generated; give 1 to 1000.")

    @classmethod
    def usual(cls, chat: bool) -> GenerationSettings:
        """The settings of the plain prompt, or of the chat template, with the usual length of each."""
        return cls(CHAT_TOKENS if chat else TOKENS, chat)

    @classmethod
    def for_model(cls, lm: EditableModel, chat: str = "auto", tokens: int | None = None) -> GenerationSettings:
        """The settings that were asked for, on a model.

        Args:
            lm: the model.
            chat: from `CHATS`; "auto" for the chat template where the model has one.
            tokens: at most how many; the usual length by default.
        """
        in_template = has_chat_template(lm) if chat == "auto" else chat == "yes"
        return cls.usual(in_template) if tokens is None else cls(tokens, in_template)

    @property
    def label(self) -> str:
        """The protocol in words, for whatever shows a score."""
        prompt = "chat template" if self.chat else "plain prompt"
        end = "" if self.whole else "to the end of the sentence or line, "
        return f"generated: {prompt}, greedy, {end}at most {self.tokens} tokens"


@dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    Attributes:
        text: without the prompt and without what follows its end.
        ended: why it is over: "sentence", "line", "end of text" or "length".
    """

    text: str
    ended: str


def has_chat_template(lm: EditableModel) -> bool:
    """Whether the model's tokenizer comes with a chat template."""
    return getattr(lm.tokenizer, "chat_template", None) is not None


def in_chat(lm: EditableModel, prompt: str) -> str:
    """A prompt as a user's message, up to where the model answers.

    Raises:
        InputError: when the model has no chat template.
    """
    if not has_chat_template(lm):
        raise InputError(f"Model {lm.name} has no chat template; generate from the plain prompt.")
    message = [{"role": "user", "content": prompt}]
    return lm.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def end_of(text: str) -> tuple[int, str] | None:
    """Where a text is over, in characters, and why; None while it goes on.

    A line that has nothing on it yet is no end: many models begin with one.
    """
    begun = len(text) - len(text.lstrip())
    line = text.find("\n", begun)
    found = (line, "line") if line >= 0 and text[begun:line].strip() else None
    for match in _SENTENCE.finditer(text, begun):
        word = (match["word"] or "").casefold()
        if match["word"] is not None and (word in _NO_END or len(word) == 1):
            continue
        if not any(map(str.isalnum, text[begun : match.end()])):
            continue  # nothing but marks
        if found is None or match.end() < found[0]:
            found = match.end(), "sentence"
        break
    return found


@torch.no_grad()
def generate(
    lm: EditableModel,
    prompts: Sequence[str],
    settings: GenerationSettings,
    guesses: Sequence[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
    bare: bool = False,
) -> list[Generated]:
    """Greedy texts after prompts, each to its natural end.

    Args:
        lm: the model, with whatever edits are in place.
        prompts: texts.
        settings: length and template.
        guesses: for each prompt a text that the model may begin with; it saves time where it is right.
        on_progress: called with the number of prompts that are done.
        bare: leave out the start token, as programs do that put none in front.

    Raises:
        InputError: when a prompt and its text do not fit into the model's context, or there is no chat template.
    """
    asked, rows = _asked(lm, prompts, settings, bare)
    guessed = _guesses(lm, asked, rows, guesses, settings) if guesses is not None else [[] for _ in rows]
    found: list[Generated | None] = [None] * len(rows)
    done = 0
    with lm.lock:
        for group in batches_by_length([len(row) + settings.tokens for row in rows], MAX_TOKENS):
            batch = _Batch(lm, [rows[i] for i in group], [guessed[i] for i in group], settings)
            for index, text in zip(group, batch.texts(), strict=True):
                found[index] = text
            done += len(group)
            if on_progress is not None:
                on_progress(done)
    return found


def check_prompts(lm: EditableModel, prompts: Sequence[str], settings: GenerationSettings) -> None:
    """Refuse early what `generate` would refuse.

    Raises:
        InputError: as `generate`.
    """
    _asked(lm, prompts, settings, bare=False)


def check_room(lm: EditableModel, prompt: str, n_tokens: int, n_more: int) -> None:
    """Refuse a prompt of so many tokens after which so many more do not fit into the model's context.

    Raises:
        InputError: naming the prompt and the numbers.
    """
    if n_tokens + n_more > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {n_tokens} tokens, which leaves no room for {n_more} more in the model's "
            f"{lm.max_length}; shorten it."
        )


def _asked(
    lm: EditableModel, prompts: Sequence[str], settings: GenerationSettings, bare: bool
) -> tuple[list[str], list[list[int]]]:
    """Prompts as they are put to the model, and their tokens, which leave room for a text."""
    asked = [in_chat(lm, prompt) if settings.chat else prompt for prompt in prompts]
    rows = [list(one.ids) for one in _encoded(lm, asked, settings.chat, bare)]
    for prompt, ids in zip(prompts, rows, strict=True):
        check_room(lm, prompt, len(ids), settings.tokens)
    return asked, rows


def _encoded(lm: EditableModel, texts: Sequence[str], chat: bool, bare: bool):
    # A template writes its own blanks and line ends, which belong to it; a prompt's last blank belongs to the answer.
    return whole_texts(lm, texts) if chat else encode_all(lm, [Text(text) for text in texts], bare)


def _guesses(
    lm: EditableModel,
    prompts: Sequence[str],
    rows: Sequence[Sequence[int]],
    guesses: Sequence[str],
    settings: GenerationSettings,
) -> list[list[int]]:
    """Token ids of guesses, followed by a full stop, which many answers are; none where they may not fit."""
    found: list[list[int]] = [[] for _ in prompts]
    if settings.chat:
        return found
    # A token is a byte at least, but for the few that a tokenizer adds.
    fit = [i for i, guess in enumerate(guesses) if len(rows[i]) + len(guess.encode()) + 8 <= lm.max_length]
    encoded = encode_all(lm, [Text(prompts[i], f"{guesses[i]}.") for i in fit])
    for i, one in zip(fit, encoded, strict=True):
        found[i] = list(one.target_ids)[: settings.tokens - 1]
    return found


class _Batch:
    """Texts that grow together."""

    def __init__(
        self,
        lm: EditableModel,
        rows: Sequence[Sequence[int]],
        guesses: Sequence[Sequence[int]],
        settings: GenerationSettings,
    ):
        self.lm, self.ends, n_tokens = lm, end_tokens(lm), settings.tokens
        self.n_tokens, self.whole = n_tokens, settings.whole
        self.written: list[list[int]] = [[] for _ in rows]
        self.found: list[Generated | None] = [None] * len(rows)
        n_shared, before = shared_start(lm, rows)
        own = [[*row[n_shared:], *guess] for row, guess in zip(rows, guesses, strict=True)]
        batch = pad(lm, own)
        self.cache = GrowingPrefix(lm, len(rows), batch.ids.shape[1] + n_tokens, before)
        self.active = list(range(len(rows)))
        # Logits at the prompt's last token and at every token of the guess.
        at = [(r, len(own[r]) - len(guess) - 1 + i) for r, guess in enumerate(guesses) for i in range(len(guess) + 1)]
        places = tuple(torch.tensor(values, device=lm.device) for values in zip(*at, strict=True))
        best = iter(self.cache.run(lm, batch.ids, batch.mask, logits_at=places).argmax(-1).tolist())
        wrong = torch.zeros_like(batch.mask)
        for r, guess in enumerate(guesses):
            said = [next(best) for _ in range(len(guess) + 1)]
            right = next((i for i, pair in enumerate(zip(said, guess, strict=False)) if pair[0] != pair[1]), len(guess))
            self.written[r] = said[: right + 1]
            # The tokens behind the first wrong one are hidden from all that follows.
            wrong[r, len(own[r]) - len(guess) + right : len(own[r])] = 1
        self.cache.mask[:, -batch.mask.shape[1] :] -= wrong
        self._end()

    def texts(self) -> list[Generated]:
        """Write all of them to their ends."""
        while self.active:
            tokens = torch.tensor([[self.written[row][-1]] for row in self.active], device=self.lm.device)
            logits = self.cache.run(self.lm, tokens, torch.ones_like(tokens))[:, -1]
            for row, token in zip(self.active, logits.argmax(-1).tolist(), strict=True):
                self.written[row].append(token)
            self._end()
        return self.found

    def _end(self) -> None:
        """Strike off what has ended."""
        texts = [self._text(self.written[row]) for row in self.active]
        going = []
        for place, (row, text) in enumerate(zip(self.active, texts, strict=True)):
            self.found[row] = self._ended(self.written[row], text)
            if self.found[row] is None:
                going.append(place)
        if len(going) < len(self.active):
            self.active = [self.active[place] for place in going]
            if going:
                self.cache.keep(torch.tensor(going, device=self.lm.device))

    def _ended(self, tokens: Sequence[int], text: str) -> Generated | None:
        """A text that is over; whether a token too many was checked by a guess plays no part."""
        for n in range(1, len(tokens) + 1):
            if tokens[n - 1] in self.ends:
                before = self._text(tokens[: n - 1])
                end = None if self.whole else end_of(before + "\n")
                if end is not None and end[0] < len(before):
                    return self._made(before[: end[0]], end[1])
                return self._made(before, "end of text")
        end = None if self.whole else end_of(text)
        if end is not None:
            return self._made(text[: end[0]], end[1])
        return self._made(text, "length") if len(tokens) >= self.n_tokens else None

    def _made(self, text: str, ended: str) -> Generated:
        return Generated(text if self.whole else text.strip(), ended)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.lm.tokenizer.decode(list(tokens), skip_special_tokens=True)
