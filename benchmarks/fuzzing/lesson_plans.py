"""Lesson plans as a visitor uploads them, and the files that are made of them."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.target import Broken, Target, attempt

TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "code", "section", "div", "span"}
KEYS = ("title", "minutes", "for", "steps", "tasks", "questions", "say", "ask", "open", "press", "watch", "see", "text",
        "lines", "answer", "x")  # fmt: skip
WORDS = ("edit", "compare?run=a&at=100", "http://h/learn?step=again", "[[steps]]", "'''", '"""', "edit?embed=true",
         "//evil.example/edit", "javascript:alert(1)", "edit?x=%ff%00", "http://[::1", "\\u0000", "inf",
         "a.b.c")  # fmt: skip

SMALL = """title = "One"
minutes = 3
for = "all"
[[steps]]
title = "A"
minutes = 1.5
say = "x"
open = "edit?fact=france&method=MEMIT"
[[steps]]
title = "B"
minutes = 1.5
say = '''
two lines

and a paragraph'''
ask = "?"
open = "http://127.0.0.1:8501/compare?run=a&run=b"
press = ["Apply", "Undo"]
watch = "y"
see = "z"
[[tasks]]
title = "T"
text = "do"
open = "learn"
[[questions]]
text = "why?"
lines = 2
answer = "so"
"""


class LessonTarget(Target):
    """A plan is refused in one line, or everything in it is as it was written, and stands escaped in the files."""

    name = "lesson"
    about = "lesson plans, and the files made of them"
    modules = ("dashboard.talk.lessons", "dashboard.talk.lesson_files")
    longest = 150_000

    def setup(self, folder: Path) -> None:
        from dashboard.talk import lesson_files, lessons

        self._lessons, self._files = lessons, lesson_files

    def seeds(self) -> list[bytes]:
        from hostile_inputs import LESSONS

        folder = self._lessons.FOLDER
        hostile = [data for data in LESSONS.values() if len(data) < self.longest]
        return [SMALL.encode(), *(file.read_bytes() for file in sorted(folder.glob("*.toml"))), *hostile]

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        told = data.decode("utf-8", "replace")
        if rng.random() < 0.3:
            return mutate.text(told, rng, (*KEYS, *WORDS)).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            deep = rng.choice((5, 300, 3_000))
            more = rng.choice(("[" * deep, "a." * deep, "{a=" * deep, "[[steps]]\n" * deep, "9" * deep, "a . " * deep))
            return f"{told}\n{rng.choice(KEYS)} = {more}".encode() if rng.random() < 0.5 else f"{more}\n{told}".encode()
        try:
            # tomllib takes time with the square of how deep a key is.
            values = _plain(tomllib.loads(told if told.count(".") < 1_000 else SMALL))
        except (ValueError, RecursionError):
            values = tomllib.loads(SMALL)
        return as_toml(mutate.tree(values, rng, KEYS, WORDS)).encode("utf-8", "replace")

    def check(self, data: bytes) -> str:
        lesson = attempt(lambda: self._lessons.read(data, "The upload"))
        if isinstance(lesson, InputError):
            return "refused"
        if lesson.source != data.decode("utf-8-sig"):
            raise Broken("a plan's source is another text")
        if abs(lesson.starts()[-1] - lesson.minutes) > 1e-6 or not 0 < lesson.minutes <= self._lessons.MOST_MINUTES:
            raise Broken("a plan takes other minutes than its steps", lesson.minutes)
        for view in [step.view for step in lesson.steps] + [task.view for task in lesson.tasks if task.view]:
            check_view(self._lessons, self._files, view)
        said = [lesson.title, lesson.audience, *(question.text for question in lesson.questions)]
        said += [text for task in lesson.tasks for text in (task.title, task.text)]
        check_page(self._files.answer_sheet(lesson), said)
        for step in lesson.steps:
            said += [step.title, step.say, step.ask, step.watch, *step.press]
        check_page(self._files.plan(lesson), said + [question.answer for question in lesson.questions])
        again = self._lessons.read(lesson.source.encode(), "The upload")
        if again != lesson:
            raise Broken("a plan's source gives another plan")
        return "taken"


def check_view(lessons: Any, files: Any, view: Any) -> None:
    """A view leads to a page of the app, and its link back to the same view."""
    if view.page not in lessons.pages():
        raise Broken("a view leads to no page", view)
    link = files.link_of(view)
    link.encode("ascii")
    if lessons.view_of(link) != view:
        raise Broken("the link of a view leads to another view", f"{view} {link}")


def check_page(content: bytes, said: list[str]) -> None:
    """A file is markup of ours, and says all that it was given."""
    parser = _Words()
    parser.feed(content.decode())
    parser.close()
    if parser.strange:
        raise Broken("a lesson's file has markup that is not ours", parser.strange)
    for text in said:
        if text not in parser.text:
            raise Broken("a lesson's file has not every text", ascii(text))


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.strange = "", []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS or any(name not in ("lang", "charset", "class") for name, _ in attrs):
            self.strange.append(f"{tag} {attrs}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.strange.append(data)


def _plain(value: Any) -> Any:
    """TOML values as JSON ones."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def as_toml(values: Any) -> str:
    """JSON values as TOML: what is not a table goes into one."""
    values = values if isinstance(values, dict) else {"title": values}
    plain = [f"{_key(key)} = {_value(value)}" for key, value in values.items() if not _is_tables(value)]
    tables = []
    for key, rows in values.items():
        for row in rows if _is_tables(rows) else ():
            tables += [f"[[{_key(key)}]]", *(f"{_key(name)} = {_value(value)}" for name, value in row.items())]
    return "\n".join([*plain, *tables]) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _key(key: str) -> str:
    return key if key.isascii() and key.isalnum() else _text(key)


def _text(value: str) -> str:
    return '"' + "".join(_letters(value)) + '"'


def _letters(value: str) -> Iterator[str]:
    for letter in value:
        if letter in '"\\':
            yield f"\\{letter}"
        elif ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) < 0xE000:
            yield f"\\u{ord(letter):04X}"
        else:
            yield letter


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(bool(value)).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(inner)}" for name, inner in value.items()) + "}"
    return repr(value)


TARGETS = (LessonTarget(),)
