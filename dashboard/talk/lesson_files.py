"""A lesson plan as HTML files to print: the plan for the lecturer, and the answer sheet for students.

Each is one file that needs nothing else. All text of the plan is escaped. Knows no streamlit.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import urlencode

from dashboard.charts.palette import LIGHT
from dashboard.talk.lessons import Lesson, LessonStep, View

_STYLE = f"""
body {{ font: 12pt/1.45 Georgia, serif; color: {LIGHT.ink}; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 .2rem; }} h2 {{ font-size: 1.1rem; margin: 1.4rem 0 .2rem; break-after: avoid; }}
p {{ margin: .25rem 0; white-space: pre-line; }} .muted {{ color: {LIGHT.muted}; }}
section {{ break-inside: avoid; }} code {{ font-size: .9em; overflow-wrap: anywhere; }}
.line {{ border-bottom: 1px solid {LIGHT.muted}; height: 2.1rem; }}
@media print {{ body {{ margin: 0; max-width: none; }} }}
"""


def plan(lesson: Lesson) -> bytes:
    """The lecturer's plan: every step with its minutes, then the tasks, then the answers."""
    parts = [_head(lesson, "Lesson plan")]
    for number, (step, start) in enumerate(zip(lesson.steps, lesson.starts(), strict=False), start=1):
        parts.append(_step(number, step, start))
    parts += [_task(task.title, task.text, task.view) for task in lesson.tasks]
    if lesson.questions:
        parts.append("<h2>Answers</h2>")
        for number, question in enumerate(lesson.questions, start=1):
            right = f'<p class="muted">{_text(question.answer)}</p>' if question.answer else ""
            parts.append(f"<section><p>{number}. {_text(question.text)}</p>{right}</section>")
    return _file(lesson, parts)


def answer_sheet(lesson: Lesson) -> bytes:
    """The students' sheet: the tasks, and the questions with lines for the answers."""
    parts = [_head(lesson, "Answer sheet"), '<p>Name:</p><div class="line"></div>']
    parts += [_task(task.title, task.text, None) for task in lesson.tasks]
    for number, question in enumerate(lesson.questions, start=1):
        lines = '<div class="line"></div>' * question.lines
        parts.append(f"<section><h2>{number}. {_text(question.text)}</h2>{lines}</section>")
    return _file(lesson, parts)


def link_of(view: View) -> str:
    """The part of an address behind the server's name."""
    query = urlencode({name: list(values) for name, values in view.query.items()}, doseq=True, safe="/")
    page = "" if view.page == "start" else view.page  # it has no name in an address
    return f"/{page}" + (f"?{query}" if query else "")


def _step(number: int, step: LessonStep, start: float) -> str:
    rows: Sequence[tuple[str, str]] = (
        ("Say", step.say),
        ("Ask", step.ask),
        ("Press", ", then ".join(step.press)),
        ("Look for", step.watch),
    )
    told = "".join(f"<p><b>{name}:</b> {_text(text)}</p>" for name, text in rows if text)
    span = f"minute {start:g} to {start + step.minutes:g}"
    return (
        f'<section><h2>{number}. {_text(step.title)} <span class="muted">· {span}</span></h2>'
        f"<p><b>Open:</b> <code>{_text(link_of(step.view))}</code></p>{told}</section>"
    )


def _task(title: str, text: str, view: View | None) -> str:
    where = f"<p><code>{_text(link_of(view))}</code></p>" if view else ""
    return f"<section><h2>{_text(title)}</h2><p>{_text(text)}</p>{where}</section>"


def _head(lesson: Lesson, kind: str) -> str:
    about = f"{kind} · {lesson.minutes:g} minutes · for {lesson.audience}"
    return f'<h1>{_text(lesson.title)}</h1><p class="muted">{_text(about)}</p>'


def _file(lesson: Lesson, parts: Sequence[str]) -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(lesson.title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    ).encode()


def _text(text: str) -> str:
    return html.escape(text)
