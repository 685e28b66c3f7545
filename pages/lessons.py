"""Which lesson do I give? The lesson plans, a lesson step by step, and its files to print."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import widgets
from dashboard.talk import lesson_files, lesson_play
from dashboard.talk.lessons import MAX_BYTES, Lesson, LessonStep, read
from dashboard.visitors.messages import Message
from encore_core.errors import InputError

MOST_OWN = 5  # uploaded plans that a session keeps; the oldest goes first

EXAMPLE = "one-edit"


def restore(asked: Mapping[str, list[str]], known: Mapping[str, Lesson]) -> None:
    """Open the lesson that a link names, at its step; invalid values are ignored."""
    key, step = (next(iter(asked.get(name, ())), "") for name in ("lesson", "step"))
    if key not in known:
        return
    place = int(step) - 1 if step.isdecimal() and len(step) < 4 else 0
    now = lesson_play.played()
    if now is not None and now[0] == key:
        lesson_play.go(place)
    else:
        lesson_play.begin(key, place)


# -- the list ----------------------------------------------------------------------------------------------------------


def listed(known: Mapping[str, Lesson]) -> None:
    """A card for every lesson, two side by side where there is room."""
    own = st.session_state.get(lesson_play.OWN, {})
    cards = st.container(key="lesson_cards")
    for number, (key, lesson) in enumerate(known.items()):
        with cards.container(border=True, key=f"lesson_{number}"):
            widgets.heading(lesson.title, f"{lesson.minutes:g} minutes" + (" · yours" if key in own else ""))
            st.html(widgets.rich("<p>For {audience}.</p>", audience=lesson.audience) + outline(lesson))
            with st.container(horizontal=True):
                st.button(
                    "Give this lesson",
                    key=f"give {key}",
                    type="primary",
                    icon=":material/play_arrow:",
                    on_click=lesson_play.begin,
                    args=(key,),
                )
                files(key, lesson)
                if key in own:
                    st.button("Remove", key=f"remove {key}", on_click=own.pop, args=(key,))


def outline(lesson: Lesson) -> str:
    """The steps with the minutes at which they begin, as markup."""
    items = "".join(
        widgets.rich("<li><b>{at}</b><span>{title}</span></li>", at=f"{start:g} min", title=step.title)
        for step, start in zip(lesson.steps, lesson.starts(), strict=False)
    )
    return f'<ol class="es-outline">{items}</ol>'


def files(key: str, lesson: Lesson) -> None:
    """The plan, the answer sheet and the source file. Their names are ours, whatever the lesson is called."""
    with st.popover("Print or copy", icon=":material/print:", key=f"files {key}"):
        for words, make, name, kind in (
            ("Plan for the lecturer, HTML", lambda: lesson_files.plan(lesson), "lesson-plan.html", "text/html"),
            ("Answer sheet, HTML", lambda: lesson_files.answer_sheet(lesson), "answer-sheet.html", "text/html"),
            ("The plan's file, TOML", lambda: lesson.source.encode(), "lesson.toml", "application/toml"),
        ):
            st.download_button(words, make, name, kind, on_click="ignore", width="stretch", key=f"{name} {key}")
        st.caption("The HTML files open in any browser; print them from there.")


def upload(known: Mapping[str, Lesson]) -> None:
    """The upload of the visitor's own plan."""
    with st.expander("A lesson of your own", icon=":material/upload:"):
        st.html(
            "<p>A lesson plan is one text file in TOML. Take the file of a lesson above (“Print or copy”), change it "
            "in any text editor, and load it here. It stays in this browser session; nobody else sees it.</p>"
        )
        given = st.file_uploader("Lesson plan, TOML", type=["toml"], key="lesson_upload", max_upload_size=1)
        if given is None:
            st.code("\n".join(known[EXAMPLE].source.splitlines()[:22]), language="toml", wrap_lines=True)
            return
        try:
            if given.size > MAX_BYTES:
                raise InputError(f"The upload has {given.size:,} bytes; a lesson plan has at most {MAX_BYTES:,}.")
            data = given.getvalue()
            lesson = read(data, "The upload")
        except InputError as error:
            widgets.problem(error)
            return
        key = f"own-{hashlib.sha256(data).hexdigest()[:12]}"
        # An upload stays in its field until it is cleared. It is taken once, so that "Remove" has an effect.
        if st.session_state.get("lesson_taken") != given.file_id:
            st.session_state["lesson_taken"] = given.file_id
            own = st.session_state.setdefault(lesson_play.OWN, {})
            own[key] = lesson
            for oldest in list(own)[:-MOST_OWN]:
                del own[oldest]
            st.rerun()
        widgets.notice(Message("success", f"Read: {lesson.title}, {len(lesson.steps)} steps. It is in the list."))


# -- a lesson that is given --------------------------------------------------------------------------------------------


def given(key: str, lesson: Lesson, place: int) -> None:
    """One step of a lesson, large, with the plan beside it."""
    step = lesson.steps[place]
    main, aside = st.container(key="lesson_columns").columns([5, 2], gap="medium")
    with main, st.container(border=True, key="card_step"):
        minutes = f"{step.minutes:g} minute{'s' * (step.minutes != 1)}"
        widgets.heading(f"{place + 1} of {len(lesson.steps)} · {step.title}", minutes)
        with st.container(key="lesson_notes"):
            lesson_play.notes(step)
        opener(step)
        left, right = st.columns(2)
        move(left, "lesson_previous", "Previous step", place - 1, lesson)
        move(right, "lesson_next", "Next step", place + 1, lesson)
    with aside, st.container(border=True, key="card_plan"):
        widgets.heading(lesson.title, f"{lesson.minutes:g} minutes")
        lesson_play.clock()
        timetable(lesson, place)
        st.button("Restart the clock", key="lesson_again", on_click=lesson_play.begin, args=(key, place))
        files(key, lesson)
        st.button("All lessons", key="lesson_all", on_click=lesson_play.end, icon=":material/list:")
    if lesson.tasks or lesson.questions:
        with st.expander("Tasks and questions"):
            tasks(lesson)


def opener(step: LessonStep) -> None:
    """The link to the step's page, and what to look for there."""
    query = {name: list(values) for name, values in step.view.query.items()}
    st.page_link(
        step.view.file, label="**Open this step's page**", icon=":material/open_in_browser:", query_params=query
    )
    st.html(widgets.rich('<p class="es-link"><code>{link}</code></p>', link=lesson_files.link_of(step.view)))
    if step.see:
        listed = ", ".join(f"“{text}”" for text in step.see)
        st.html(widgets.rich('<p class="es-link">On that page: {listed}</p>', listed=listed))


def move(column, key: str, words: str, to: int, lesson: Lesson) -> None:
    column.button(
        words, key=key, width="stretch", disabled=not 0 <= to < len(lesson.steps), on_click=lesson_play.go, args=(to,)
    )


def timetable(lesson: Lesson, place: int) -> None:
    """The steps with their minutes; the current one is marked by weight and sign."""
    items = ""
    for number, (step, start) in enumerate(zip(lesson.steps, lesson.starts(), strict=False)):
        items += widgets.rich(
            '<li class="{kind}" {now}><b>{at}</b><span>{mark}{title}</span></li>'.replace(
                "{now}", 'aria-current="step"' if number == place else ""
            ),
            kind="es-now" if number == place else "",
            at=f"{start:g} min",
            mark="▶ " if number == place else "",
            title=step.title,
        )
    st.html(f'<ol class="es-outline">{items}</ol>')


def tasks(lesson: Lesson) -> None:
    """The students' tasks and the questions of the answer sheet."""
    for number, task in enumerate(lesson.tasks):
        st.html(widgets.rich("<h3>{title}</h3><p>{text}</p>", title=task.title, text=task.text))
        if task.view is not None:
            st.page_link(
                task.view.file,
                label=f"Open the page of task {number + 1}",
                query_params={name: list(values) for name, values in task.view.query.items()},
            )
    rows = [(number, one.text, one.answer or "–") for number, one in enumerate(lesson.questions, start=1)]
    if rows:
        widgets.table([("#", "right"), ("Question", ""), ("Right answer", "")], rows, "The answer sheet")


def main() -> None:
    st.title(page_list.question("lessons"), anchor=False)
    try:
        known = lesson_play.known()
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened("lessons")
    if asked is not None:
        restore(asked, known)
    now = lesson_play.played()
    if now is None:
        listed(known)
        upload(known)
        links.write("lessons", {})
        return
    key, lesson, place = now
    given(key, lesson, place)
    # The visitor's own plan exists in this session alone, so a link to it would lead nowhere.
    is_own = key in st.session_state.get(lesson_play.OWN, {})
    links.write("lessons", {} if is_own else {"lesson": key, "step": str(place + 1)})


main()
