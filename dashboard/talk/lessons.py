"""Lesson plans: what a lecturer says, asks, opens and shows, read from TOML files and checked. Knows no streamlit.

TOML because a lecturer writes it in any editor: texts of several lines without escapes, comments, and an error has a
line number; Python reads it without another package, and nothing in it can be run. `assets/lessons/README.md`
explains the fields to lecturers. Texts are plain text: the code that shows them escapes them.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dashboard import page_list
from encore_core.errors import InputError, quoted
from encore_core.resources import ASSETS, PAGES

FOLDER = ASSETS / "lessons"

MAX_BYTES = 100_000
MOST_STEPS, MOST_TASKS, MOST_QUESTIONS = 60, 40, 60
MOST_MINUTES = 600
MOST_DOTS = 400
SHORT, LONG, LIST = 200, 4000, 12
"""Longest titles and links (in characters), longest texts, and longest lists."""


@dataclass(frozen=True)
class View:
    """A page in a certain state.

    Attributes:
        page: its name in addresses, "" for the page that the app opens with.
        query: the state.
    """

    page: str
    query: Mapping[str, tuple[str, ...]]

    @property
    def file(self) -> str:
        """The page's file, as `st.page_link` takes it."""
        return page_list.script(self.page)


@dataclass(frozen=True)
class LessonStep:
    """A step.

    Attributes:
        title: its name.
        minutes: how long it takes.
        say: what to say.
        ask: what to ask the class before anything is pressed; may be empty.
        view: the page that it opens.
        at: the key of the card there that it opens at; empty for the top of the page.
        press: buttons to press there, in order.
        watch: what to look for then; may be empty.
        see: texts that the page shows then, word for word.
    """

    title: str
    minutes: float
    say: str
    ask: str
    view: View
    at: str
    press: tuple[str, ...]
    watch: str
    see: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """Something for students to do by themselves; `view` is where, if anywhere."""

    title: str
    text: str
    view: View | None


@dataclass(frozen=True)
class Question:
    """A question on the answer sheet: how many lines it has for the answer, and the right answer (may be empty)."""

    text: str
    lines: int
    answer: str


@dataclass(frozen=True)
class Lesson:
    """A lesson plan.

    Attributes:
        title, minutes, audience: what it is called, how long it takes, for whom it is.
        steps, tasks, questions: what it consists of.
        source: the file's text.
    """

    title: str
    minutes: float
    audience: str
    steps: tuple[LessonStep, ...]
    tasks: tuple[Task, ...]
    questions: tuple[Question, ...]
    source: str

    def starts(self) -> list[float]:
        """The planned minute at which each step begins, and the one at which the last step ends."""
        found = [0.0]
        for step in self.steps:
            found.append(found[-1] + step.minutes)
        return found


def bundled() -> dict[str, Lesson]:
    """The lessons that come with the program, the shortest first, by the name of their file.

    Raises:
        InputError: when one of them cannot be read.
    """
    found = {path.stem: read(path.read_bytes(), path.name) for path in sorted(FOLDER.glob("*.toml"))}
    return dict(sorted(found.items(), key=lambda item: item[1].minutes))


@cache
def pages() -> tuple[str, ...]:
    """Names of the app's pages: each is a file, and its name is the page's in addresses."""
    return tuple(sorted(path.stem for path in PAGES.glob("*.py")))


def read(data: bytes, name: str) -> Lesson:
    """A lesson plan from the content of its file.

    Args:
        data: TOML in UTF-8.
        name: of the file, for messages.

    Raises:
        InputError: one line that names file, step and field, and says what would be right.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has {len(data):,} bytes; a lesson plan has at most {MAX_BYTES:,}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8.") from error
    # tomllib takes time with the square of how many names a key has: seconds for a line of some thousands.
    deepest = max((len(re.findall(r"\.[ \t]*[\w\"'-]", line)) for line in text.splitlines()), default=0)
    if deepest > MOST_DOTS:
        raise InputError(
            f"{name} is not a lesson plan: a line has {deepest:,} dots before words; give at most {MOST_DOTS}."
        )
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else "a number has too many digits"
        if isinstance(error, tomllib.TOMLDecodeError):
            why = " ".join(str(error).split())
        raise InputError(f"{name} is not TOML: {why[:200]}.") from error
    table = _Table(values, name)
    lesson = Lesson(
        title=table.text("title", SHORT),
        minutes=table.number("minutes", MOST_MINUTES),
        audience=table.text("for", SHORT),
        steps=tuple(map(_step, table.tables("steps", "step", MOST_STEPS, least=1))),
        tasks=tuple(map(_task, table.tables("tasks", "task", MOST_TASKS))),
        questions=tuple(map(_question, table.tables("questions", "question", MOST_QUESTIONS))),
        source=text,
    )
    table.nothing_else()
    planned = lesson.starts()[-1]
    if abs(planned - lesson.minutes) > 1e-6:  # sums of tenths
        raise InputError(
            f"{name}: minutes of its steps add up to {planned:g}, but minutes = {lesson.minutes:g}; make these equal."
        )
    return lesson


def _step(table: _Table) -> LessonStep:
    step = LessonStep(
        title=table.text("title", SHORT),
        minutes=table.number("minutes", MOST_MINUTES),
        say=table.text("say", LONG),
        ask=table.text("ask", LONG, optional=True),
        view=table.view("open"),
        at=table.key("at"),
        press=table.texts("press"),
        watch=table.text("watch", LONG, optional=True),
        see=table.texts("see"),
    )
    table.nothing_else()
    return step


def _task(table: _Table) -> Task:
    view = table.view("open") if "open" in table.values else None
    task = Task(table.text("title", SHORT), table.text("text", LONG), view)
    table.nothing_else()
    return task


def _question(table: _Table) -> Question:
    lines = int(table.number("lines", 40, whole=True)) if "lines" in table.values else 3
    question = Question(table.text("text", LONG), lines, table.text("answer", LONG, optional=True))
    table.nothing_else()
    return question


def view_of(link: str) -> View:
    """The view behind a link, as an address bar shows it or as "page?name=value"; the server in it does not matter.

    Raises:
        InputError: without a known page; the message has no subject, the caller says where.
    """
    try:
        link.encode()  # half a character is a ValueError, too
        parts = urlsplit(link.strip())
        query = parse_qs(parts.query, max_num_fields=60)
    except ValueError as error:
        raise InputError('is not a link; copy one from the address bar, or write "page?name=value".') from error
    is_address = parts.scheme in ("http", "https") and bool(parts.netloc)
    if (parts.scheme or parts.netloc) and not is_address:
        raise InputError('is not a link to a page of this app; write for example "edit" or "compare?at=100".')
    page = parts.path.strip("/") or "start"
    if page not in pages():
        close = difflib.get_close_matches(page, pages(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"pages: {', '.join(pages())}."
        raise InputError(f"leads to the page {quoted(page)}, which does not exist; {hint}")
    # Streamlit reserves names that begin like this.
    state = {name: tuple(values) for name, values in query.items() if not name.startswith("embed")}
    return View(page, state)


class _Table:
    """A table of the file that is read field by field; every refusal says where the problem is."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where
        self._read: set[str] = set()

    def refuse(self, field: str, why: str) -> InputError:
        return InputError(f"{self.where}: {field} {why}")

    def _take(self, field: str) -> Any:
        self._read.add(field)
        return self.values.get(field)

    def text(self, field: str, longest: int, optional: bool = False) -> str:
        """A text, without blanks around it."""
        value = self._take(field)
        if value is None and optional:
            return ""
        if value is None:
            raise self.refuse(field, f'is missing; write {field} = "…".')
        if not isinstance(value, str) or not (value.strip() or optional):
            raise self.refuse(field, f'= {quoted(value)} is not text; write {field} = "…".')
        return self._checked(field, value, longest)

    def _checked(self, field: str, value: str, longest: int) -> str:
        """A text as it is shown: lines are joined, an empty one begins a paragraph."""
        value = "\n".join(" ".join(part.split()) for part in re.split(r"\n[ \t\r]*\n", value.strip()))
        if len(value) > longest:
            raise self.refuse(field, f"has {len(value):,} characters; at most {longest:,} are taken.")
        odd = next((sign for sign in value if not (sign.isprintable() or sign == "\n")), None)
        if odd is not None:
            raise self.refuse(field, f"has the control character U+{ord(odd):04X}; leave it out.")
        return value

    def key(self, field: str) -> str:
        """The key of a card, if one is given."""
        value = self.text(field, SHORT, optional=True)
        if value and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value):
            raise self.refuse(
                field, f'= {quoted(value)} is not a key of a card; write for example {field} = "card_learn".'
            )
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A text or a list of texts; nothing at all is an empty list."""
        value = self._take(field)
        listed = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) and item.strip() for item in listed):
            raise self.refuse(field, f'= {quoted(value)} is not a list of strings; write {field} = ["…", "…"].')
        if len(listed) > LIST:
            raise self.refuse(field, f"has {len(listed)} entries; at most {LIST} are taken.")
        return tuple(self._checked(field, item, SHORT) for item in listed)

    def number(self, field: str, most: float, whole: bool = False) -> float:
        value = self._take(field)
        noun = "a whole number" if whole else "a number"
        if value is None:
            raise self.refuse(field, f"is missing; write {field} = 5.")
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and 0 < value <= most
        if not fits:
            raise self.refuse(field, f"= {quoted(value)} is out of range; give {noun} above 0 and up to {most:g}.")
        return value

    def view(self, field: str) -> View:
        link = self.text(field, LONG)
        try:
            return view_of(link)
        except InputError as error:
            raise self.refuse(field, f"= {quoted(link)} {error}") from error

    def tables(self, field: str, noun: str, most: int, least: int = 0) -> Sequence[_Table]:
        """The tables of a list, as `[[steps]]` writes them."""
        value = self._take(field)
        listed = [] if value is None else value
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise self.refuse(field, f"is not a list of tables; begin each {noun} with a line [[{field}]].")
        if not least <= len(listed) <= most:
            raise self.refuse(field, f"has {len(listed)} entries; a plan has from {least} to {most}.")
        return [_Table(item, f"{self.where}, {noun} {number}") for number, item in enumerate(listed, start=1)]

    def nothing_else(self) -> None:
        """Refuse fields that nobody read: most often one is misspelt.

        Raises:
            InputError: naming the first one.
        """
        for field in self.values:
            if field not in self._read:
                close = difflib.get_close_matches(field, self._read, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(self._read))}."
                raise self.refuse(quoted(field), f"is no field here; {hint}")
