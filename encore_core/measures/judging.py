"""Whether a text that a model wrote gives an answer: exactly, among other words, or in the eyes of a judge.

Exact match and containment compare normalised texts: without capitals, punctuation, the articles a, an, the, and
differences of Unicode form and spacing, much as SQuAD's evaluation does (arXiv 1606.05250). Unlike there

- an article with no word behind it stays (Serie A, Hepatitis A), and texts that agree with their articles agree, too;
- + and # at a word stay (C++, C#), and so do minus signs (-5) and decimal points (3.5);
- other marks become blanks, so that Jean-Paul is Jean Paul; a comma between thousands is left out (1,000 is 1000).

Containment looks for whole words. A judge is a program or a model of the user's, asked yes or no; without one, no score
says that it was judged.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from operator import eq
from urllib.parse import urlsplit

from encore_core.errors import InputError, quoted
from encore_core.facts.joining import is_unspaced

AT_ONCE = 8
"""Questions put to a judge at a time."""

KEY = "ENCORE_JUDGE_KEY"
"""Environment variable with the key that an address wants, if any."""

TOLD_SECONDS = 0.5
"""Longest time between two reports of progress."""

MOST_OF_A_REPLY = 1_000_000
"""Bytes of a reply that are read."""

_ARTICLE = r"(?:a|an|the)"
_BEFORE_A_WORD = re.compile(rf"\b{_ARTICLE}\s+(?=[^\w\s]*\w)")
_ONLY_ARTICLES = re.compile(rf"{_ARTICLE}( {_ARTICLE})*")

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_STAYS = re.compile(r"(?<=[^\W_])[+#]+|(?<![^\s(\[=])[-−](?=\d)|(?<![\d.])\d+\.\d+(?!\.?\d)")
"""What punctuation stays: + and # behind a letter or digit, a minus sign, a decimal point with its digits."""

_YES, _NO = frozenset(("yes", "true", "1", "correct", "right")), frozenset(("no", "false", "0", "incorrect", "wrong"))


def normalised(text: str) -> str:
    """A text without what does not count: capitals, punctuation, articles before a word, forms of Unicode, spacing.

    A text of nothing but marks keeps them.
    """
    folded = _folded(text)
    return _words(_BEFORE_A_WORD.sub(" ", folded)) or folded.strip()


def _with_articles(text: str) -> str:
    folded = _folded(text)
    return _words(folded) or folded.strip()


def _folded(text: str) -> str:
    return _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _words(folded: str) -> str:
    """The words of a text with one blank between them, see `_STAYS`."""
    kept = {place for found in _STAYS.finditer(folded) for place in range(*found.span())}
    letters = (
        one if place in kept or unicodedata.category(one)[0] not in "PSZC" else " " for place, one in enumerate(folded)
    )
    return " ".join("".join(letters).replace("−", "-").split())


def matches(text: str, answers: Sequence[str]) -> bool:
    """Whether a text is one of the answers, both normalised."""
    return _agrees(text, answers, eq)


def contains(text: str, answers: Sequence[str]) -> bool:
    """Whether a text has one of the answers in it, both normalised: as whole words.

    In scripts without blanks between words, such as Chinese and Thai, words begin and end anywhere.
    """
    return _agrees(text, answers, _is_in)


def _agrees(text: str, answers: Sequence[str], agree: Callable[[str, str], bool]) -> bool:
    """Whether `agree(answer, text)` for an answer: both without articles, or both with them.

    "Vitamin A is good" has "Vitamin A" in it, although a word follows its A. An answer that is an article has no
    such second way, because any text has it as an article.
    """
    said, whole = normalised(text), _with_articles(text)
    for answer in answers:
        bare, full = normalised(answer), _with_articles(answer)
        if bare and (agree(bare, said) or (not _ONLY_ARTICLES.fullmatch(full) and agree(full, whole))):
            return True
    return False


def _is_in(answer: str, said: str) -> bool:
    start = said.find(answer)
    while start >= 0:
        end = start + len(answer)
        if _parted(said[max(0, start - 1) : start], answer[0]) and _parted(said[end : end + 1], answer[-1]):
            return True
        start = said.find(answer, start + 1)
    return False


def _parted(beside: str, end: str) -> bool:
    """Whether a word can end between two characters; `beside` is "" at either end of the text."""
    return beside in ("", " ") or is_unspaced(beside) or is_unspaced(end)


@dataclass(frozen=True)
class Asked:
    """What a judge is asked about.

    Attributes:
        question: the prompt.
        answers: the right ones.
        said: what the model wrote.
    """

    question: str
    answers: tuple[str, ...]
    said: str

    def in_words(self) -> str:
        """The question for a model that judges."""
        return (
            "Does the response give the right answer? Reply with yes or no alone.\n"
            f"Question: {self.question}\nRight answer: {' or '.join(self.answers)}\nResponse: {self.said}"
        )


Verdict = tuple[bool | None, str]
"""Whether an answer is right, or None and why there is no verdict."""


@dataclass(frozen=True)
class Judge:
    """A user's judge.

    Attributes:
        where: a command line, which reads one JSON object {"question", "answers", "said"} and prints yes or no; or the
            address of an OpenAI-compatible server ("http://localhost:8000/v1").
        model: the name of the model at that address.
        seconds: to wait for a verdict.

    Raises:
        InputError: for a judge that cannot be asked, and for an address with a name, a password or a query in it, which
            would be shown wherever the judge is named.
    """

    where: str
    model: str | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.where.strip():
            raise InputError("The judge is blank; give a command, or the address of an OpenAI-compatible server.")
        try:
            shlex.split(self.where)
        except ValueError as error:
            raise InputError(
                f"The judge {quoted(self.where)} is not a command line ({error}); close the quotation."
            ) from None
        if self.is_address:
            _check_address(self.where)
            if not self.model:
                raise InputError(f"The judge at {self.where} needs the name of a model.")
        if not self.seconds > 0:
            raise InputError(f"{self.seconds} seconds are too few for a judge; give a number above 0.")

    @property
    def is_address(self) -> bool:
        """Whether it is asked over the network."""
        return self.where.startswith(("http://", "https://"))

    @property
    def label(self) -> str:
        """Its name beside a score."""
        return f"judged by {self.model}" if self.is_address else f"judged by {shlex.split(self.where)[0]}"

    def verdicts(
        self,
        asked: Sequence[Asked],
        on_progress: Callable[[int], None] | None = None,
        known: MutableMapping[Asked, Verdict] | None = None,
    ) -> list[Verdict]:
        """Ask about each, several at a time.

        Args:
            asked: each is put once, however often it is in there.
            on_progress: called with how many of them have been answered, also while none is; if it raises, nothing more
                is asked.
            known: what came of questions before, which are not put again; new ones are put in as they come.
        """
        known = {} if known is None else known
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            waiting = {pool.submit(self._verdict, one): one for one in dict.fromkeys(asked) if one not in known}
            while waiting:
                for done in wait(waiting, TOLD_SECONDS, FIRST_COMPLETED).done:
                    known[waiting.pop(done)] = done.result()
                if on_progress is not None:
                    on_progress(sum(one in known for one in asked))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [known[one] for one in asked]

    def _verdict(self, asked: Asked) -> Verdict:
        try:
            reply = self._over_network(asked) if self.is_address else self._by_command(asked)
        except subprocess.TimeoutExpired:
            return None, f"no reply within {self.seconds:g} s"
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            # URLError is an OSError; the others are replies of another form.
            why = getattr(error, "reason", None) or error
            late = isinstance(why, TimeoutError)
            return None, f"no reply within {self.seconds:g} s" if late else f"no reply: {why or type(error).__name__}"
        words = re.findall(r"\w+", reply.casefold())
        if words and words[0] in _YES | _NO:
            return words[0] in _YES, ""
        return None, f"neither yes nor no: {quoted(reply.strip()[:80])}"

    def _by_command(self, asked: Asked) -> str:
        values = {"question": asked.question, "answers": list(asked.answers), "said": asked.said}
        done = subprocess.run(
            shlex.split(self.where), input=json.dumps(values, ensure_ascii=False), capture_output=True, text=True,
            encoding="utf-8", timeout=self.seconds, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise ValueError(f"exit code {done.returncode}{f' ({lines[-1][:80]})' if lines else ''}")
        return done.stdout

    def _over_network(self, asked: Asked) -> str:
        body = {"model": self.model, "temperature": 0, "max_tokens": 5,
                "messages": [{"role": "user", "content": asked.in_words()}]}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.where.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with _OPENER.open(request, timeout=self.seconds) as reply:
            return str(json.loads(reply.read(MOST_OF_A_REPLY))["choices"][0]["message"]["content"])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that the user named, and to no other that it refers to."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _check_address(where: str) -> None:
    try:
        parts = urlsplit(where)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if not host:
        raise InputError(f"The judge {quoted(where)} is not an address; write it as http://localhost:8000/v1.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # The message does not repeat it: it may hold a key.
        raise InputError(
            f"The judge's address at {host} has a name, a password or a query in it; give the address alone, and its "
            f"key in the environment variable {KEY}."
        )
