"""Lesson plans: the three that come with the program, all that a file can get wrong, and what is printed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from refusals import refusal

from dashboard import page_list
from dashboard.talk import lesson_files, lessons
from dashboard.talk.lessons import MAX_BYTES, View, read, view_of
from encore_core.facts import read_facts
from encore_core.runs.recorded import recorded_runs

HOSTILE = "<img src=x onerror=alert(1)> **bold** $x$ [a](javascript:b)"


def plan(**changes) -> str:
    """A short plan as TOML; `top`, `step` and `more` add lines to it, other names replace values."""
    values = {
        "title": '"A lesson"', "minutes": "3", "for": '"us"', "step_title": '"One"', "step_minutes": "3",
        "say": '"Say it"', "open": '"edit"', "top": "", "step": "", "more": "",
    } | changes  # fmt: skip
    lines = [f"{name} = {values[name]}" for name in ("title", "minutes", "for") if values[name]]
    inner = {"title": "step_title", "minutes": "step_minutes", "say": "say", "open": "open"}
    step = [f"{name} = {values[key]}" for name, key in inner.items() if values[key]]
    return "\n".join([*lines, values["top"], "[[steps]]", *step, values["step"], values["more"]])


def refused(text: str | bytes) -> str:
    return refusal(read, text if isinstance(text, bytes) else text.encode(), "plan.toml")


# -- what comes with the program ---------------------------------------------------------------------------------------


def test_three_plans_come_with_the_program():
    found = lessons.bundled()
    assert [lesson.minutes for lesson in found.values()] == [10, 20, 45]
    lab = list(found.values())[-1]
    assert lab.tasks and lab.questions  # the lab has tasks for students and a sheet for answers
    for lesson in found.values():
        assert sum(step.minutes for step in lesson.steps) == lesson.minutes
        assert all(step.say and step.see for step in lesson.steps)


def test_facts_and_runs_of_the_plans_are_there():
    facts, runs = {fact.id for fact in read_facts("bundled")}, {run.id for run in recorded_runs().runs()}
    named = [step.view.query for lesson in lessons.bundled().values() for step in lesson.steps]
    named += [task.view.query for lesson in lessons.bundled().values() for task in lesson.tasks if task.view]
    assert any("run" in query for query in named) and any("fact" in query for query in named)
    for query in named:
        assert set(query.get("run", ())) <= runs and set(query.get("fact", ())) <= facts


def test_every_page_file_is_a_page_of_the_app():
    """A link of a lesson may lead to any file of `pages/`; the frame knows them all under these names."""
    assert set(lessons.pages()) == set(page_list.ENTRIES)


def test_the_readme_shows_a_plan_that_can_be_read():
    text = (lessons.FOLDER / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    lesson = read(example.encode(), "README.md")
    assert lesson.steps[0].say == "What to say, in several lines." and lesson.tasks[0].view.page == "learn"


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_read_as_it_is_written():
    more = (
        '[[tasks]]\ntitle = "T"\ntext = "Do it"\n[[questions]]\ntext = "Q?"\nlines = 2\nanswer = "A"\n'
        '[[questions]]\ntext = "R?"'
    )
    say = '"""First\n  line.\n\nSecond."""'
    text = plan(say=say, step='ask = "Why?"\npress = "Apply edit"\nwatch = "W"\nsee = ["S", "T"]', more=more)
    lesson = read(b"\xef\xbb\xbf" + text.encode(), "plan.toml")  # as Windows' editor saves it
    [step] = lesson.steps
    assert (lesson.title, lesson.minutes, lesson.audience, lesson.source) == ("A lesson", 3, "us", text)
    assert (step.say, step.ask, step.press, step.watch, step.see) == (
        "First line.\nSecond.", "Why?", ("Apply edit",), "W", ("S", "T"))  # fmt: skip
    assert lesson.tasks[0].view is None and [q.lines for q in lesson.questions] == [2, 3]


@pytest.mark.parametrize(
    ("link", "page", "query"),
    [
        ("edit", "edit", {}),
        ("/", "start", {}),
        ("compare?run=a&run=b&at=100", "compare", {"run": ("a", "b"), "at": ("100",)}),
        ("http://127.0.0.1:8501/norms?run=a%20b&embed_options=dark_theme", "norms", {"run": ("a b",)}),
        ("https://example.org/learn?step=mpes#x", "learn", {"step": ("mpes",)}),
    ],
)
def test_links_as_written_and_as_copied_from_the_address_bar(link, page, query):
    assert view_of(link) == View(page, query)


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "//evil.example/edit", "file:///etc/passwd", "http:/edit", "http://[", "data:text/html,x"],
)
def test_links_to_elsewhere_are_refused(link):
    told = refused(plan(open=json.dumps(link)))
    assert told.startswith("plan.toml, step 1: open = ") and "link" in told


def test_a_link_with_half_a_character_is_refused():
    assert "is not a link" in refusal(view_of, "edit?\ud800t=c")


def test_unknown_pages_are_refused_with_a_hint():
    assert "did you mean 'compare'?" in refused(plan(open='"compair"'))
    assert "pages: compare, " in refused(plan(open='"../../etc/passwd"'))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"title": ""}, 'plan.toml: title is missing; write title = "…".'),
        ({"title": "5"}, "plan.toml: title = 5 is not text"),
        ({"title": '"  "'}, "title = '  ' is not text"),
        ({"title": f'"{"x" * 201}"'}, "title has 201 characters; at most 200"),
        ({"minutes": '"3"'}, "minutes = '3' is out of range; give a number above 0"),
        ({"minutes": "nan"}, "minutes = nan is out of range"),
        ({"minutes": "true"}, "minutes = True is out of range"),
        ({"minutes": "4"}, "add up to 3, but minutes = 4"),
        ({"step_minutes": "-3"}, "plan.toml, step 1: minutes = -3 is out of range"),
        ({"say": ""}, 'plan.toml, step 1: say is missing; write say = "…".'),
        ({"say": '"a\\u0007"'}, "step 1: say has the control character U+0007"),
        ({"open": ""}, "step 1: open is missing"),
        ({"step": 'see = [1]'}, "step 1: see = [1] is not a list of strings"),
        ({"step": 'press = [""]'}, "step 1: press = [''] is not a list of strings"),
        ({"step": f"see = {['x'] * 13}"}, "see has 13 entries; at most 12"),
        ({"step": 'asks = "x"'}, "step 1: 'asks' is no field here; did you mean 'ask'?"),
        ({"top": 'author = "me"'}, "plan.toml: 'author' is no field here; known: for, minutes"),
        ({"top": "tasks = 3"}, "tasks is not a list of tables; begin each task with a line [[tasks]]"),
        ({"more": '[[questions]]\ntext = "Q"\nlines = 1.5'}, "question 1: lines = 1.5 is out of range; give a whole"),
        ({"more": '[[tasks]]\ntitle = "T"'}, "plan.toml, task 1: text is missing"),
        ({"more": '[[tasks]]\ntitle = "T"\ntext = "x"\nopen = "nowhere"'}, "task 1: open = 'nowhere' leads to"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_step_and_field(changes, told):
    assert told in refused(plan(**changes))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "plan.toml: title is missing"),
        (b"title = ", "plan.toml is not TOML: "),
        (b"\xff\xfe", "is not UTF-8 text (byte 1)"),
        (b"x" * (MAX_BYTES + 1), "at most 100,000"),
        (b"a = " + b"[" * 50_000, "is not TOML: "),
        (b'title = "x"\ntitle = "y"', "is not TOML: "),
        (b"steps = [{}]\ntitle = 'a'\nminutes = 1\nfor = 'b'", "step 1: title is missing"),
        (b"steps = []\ntitle = 'a'\nminutes = 1\nfor = 'b'", "steps has 0 entries; a plan has from 1 to 60"),
    ],
)
def test_files_that_are_no_plans(data, told):
    assert told in refused(data)


# -- files to print ----------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, data: bytes):
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)

    def handle_data(self, data):
        self.text += data


def test_printed_files_escape_everything_and_hold_everything():
    quoted = json.dumps(HOSTILE)
    more = f'[[tasks]]\ntitle = {quoted}\ntext = {quoted}\n[[questions]]\ntext = {quoted}\nlines = 4\nanswer = "right"'
    step = f"ask = {quoted}\npress = [{quoted}]\nwatch = {quoted}\nsee = [{quoted}]"
    link = json.dumps("edit?fact=<b>x</b>")
    text = plan(title=quoted, say=quoted, step_title=quoted, open=link, step=step, more=more, **{"for": quoted})
    lesson = read(text.encode(), "plan.toml")
    sheet, printed = Tags(lesson_files.answer_sheet(lesson)), Tags(lesson_files.plan(lesson))
    for page in (sheet, printed):
        assert not {"img", "script", "a"} & set(page.found) and HOSTILE in page.text
    assert sheet.found.count("div") == 1 + 4 and "right" not in sheet.text  # lines to write on, and no answers
    assert "right" in printed.text and "minute 0 to 3" in printed.text
    assert printed.text.count(HOSTILE) == 11 and printed.found.count("b") == 5  # headings of ours: Open, Say, Ask, …


def test_a_view_has_one_link():
    for lesson in lessons.bundled().values():
        for step in lesson.steps:
            assert view_of(lesson_files.link_of(step.view)) == step.view
