"""Presenting: large type, no sidebar, a bar with keys for next, previous, play and the covered answer.

The bar moves through the steps of the lesson that is being given, or else through the pages in their order, with the
Learn page step by step. What runs and views are picked with is folded away, and Controls brings it back. Play moves a
page's slider over edits. Every address says whether one presents, so a slide deck's link opens the page as the lecturer
had it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import theme, theme_switch, widgets
from dashboard.elements.presentation_mode import ON, is_on
from dashboard.talk import lesson_play, reset_everything
from dashboard.talk.method_steps import STEPS

PREDICT = "predicting"
ADDRESSED = {"present": ON, "predict": PREDICT}
"""Parameter of every address → what it switches on."""

PLAY_SECONDS = 1.5

_PLAYED, _PLAYING, _NEXT, _REVEALED = "played over", "playing since", "played to", "revealed answers"
_CONTROLS = "presenting with controls"
_BEGUN, _MOVE = "presenting has just begun", "presenter's way asked for"

Way = Callable[[], None] | None
"""Goes to the previous or next place; None where there is none."""

_FOCUS = """
export default function ({ data }) {
  if (window.esPlace === data.place) return;
  window.esPlace = data.place;
  const main = document.querySelector('[data-testid=stMain]');
  if (!main) return;
  main.tabIndex = -1;
  main.focus({ preventScroll: true });
}
"""


# -- begin and end -----------------------------------------------------------------------------------------------------


def begin() -> None:
    """Start to present. The page Lessons shows the lecturer's notes, so the lesson's step is opened instead."""
    st.session_state[ON] = st.session_state[_BEGUN] = True


def leave() -> None:
    """Stop presenting; this ends predictions, too."""
    for key in (ON, PREDICT, _PLAYING, _NEXT, _REVEALED, _CONTROLS):
        st.session_state.pop(key, None)


def read_address() -> None:
    """Switch on what the address asks for, unless we wrote it there ourselves."""
    for name, key in ADDRESSED.items():
        if st.query_params.get(name) == "1" != links.said_everywhere(name):
            st.session_state[key] = True


def addressed() -> dict[str, str]:
    """What every address says: what is on."""
    return {name: "1" for name, key in ADDRESSED.items() if st.session_state.get(key)}


# -- predict, then reveal ----------------------------------------------------------------------------------------------


def is_predicting() -> bool:
    """Whether predictions are asked for."""
    return bool(st.session_state.get(PREDICT))


def _switch_controls() -> None:
    st.session_state[_CONTROLS] = not st.session_state.get(_CONTROLS)


def _switch_predictions() -> None:
    st.session_state[PREDICT] = not is_predicting()


def covers(place: str, answer: object) -> bool:
    """Whether an answer stays covered: predictions are asked for, and this answer has not been shown yet.

    Args:
        place: where it is shown.
        answer: distinguishes it from other answers shown there.
    """
    return is_predicting() and st.session_state.get(_REVEALED, {}).get(place) != answer


def cover(place: str, answer: object, question: str, choices: Sequence[str]) -> None:
    """Show, in place of a covered answer, the question that the class votes on by show of hands.

    Args:
        place: as for `covers`.
        answer: as for `covers`.
        question: what to vote on.
        choices: what to vote for.
    """
    with st.container(border=True, key="covered"):
        _put_to_the_vote(question, choices)
        st.button(
            "Show the answer",
            key="reveal",
            type="primary",
            icon=":material/visibility:",
            shortcut="A",
            on_click=_reveal,
            args=(place, answer),
        )


def covered(place: str, answer: object, question: str, choices: Sequence[str]) -> bool:
    """`cover` an answer if it is to be covered. Returns whether it is; then nothing of it is to be shown.

    Args:
        place, answer, question, choices: as for `cover`.
    """
    if not covers(place, answer):
        return False
    cover(place, answer, question, choices)
    return True


def ask(question: str, choices: Sequence[str]) -> None:
    """The same question before there is an answer, to vote on first."""
    with st.container(border=True, key="asked"):
        _put_to_the_vote(question, choices)


def _put_to_the_vote(question: str, choices: Sequence[str]) -> None:
    items = "".join(widgets.rich('<li dir="auto">{text}</li>', text=text) for text in choices)
    st.html(widgets.rich('<h2 class="es-step">{text}</h2>', text=question) + f'<ol class="es-votes">{items}</ol>')


def _reveal(place: str, answer: object) -> None:
    st.session_state.setdefault(_REVEALED, {})[place] = answer


# -- play --------------------------------------------------------------------------------------------------------------


def plays_over(key: str, checkpoints: Sequence[int]) -> bool:
    """Offer a slider to the play button. Call it before the slider is made, because it may move it.

    Args:
        key: of the slider's value in the session.
        checkpoints: its positions, in order.

    Returns:
        whether it has been moved.
    """
    st.session_state[_PLAYED] = (key, list(checkpoints))
    wanted = st.session_state.pop(_NEXT, None)
    if wanted is None or wanted[0] != key or wanted[1] not in checkpoints:
        return False
    st.session_state[key] = wanted[1]
    return True


def _play() -> None:
    """Go on from where the slider is, and from the first checkpoint when it is at the last one."""
    key, checkpoints = st.session_state[_PLAYED]
    st.session_state[_PLAYING] = time.monotonic()
    if st.session_state.get(key) == checkpoints[-1]:
        st.session_state[_NEXT] = (key, checkpoints[0])


def _stop() -> None:
    st.session_state.pop(_PLAYING, None)


@st.fragment(run_every=PLAY_SECONDS / 3)
def _go_on_playing() -> None:
    since, offered = st.session_state.get(_PLAYING), st.session_state.get(_PLAYED)
    if since is None or offered is None or time.monotonic() - since < PLAY_SECONDS:
        return
    key, checkpoints = offered
    later = [edits for edits in checkpoints if edits > st.session_state.get(key, checkpoints[-1])]
    if later:
        st.session_state[_NEXT], st.session_state[_PLAYING] = (key, later[0]), time.monotonic()
    else:
        _stop()
    st.rerun()


# -- the bar -----------------------------------------------------------------------------------------------------------


def ready(pages: Sequence[Any], page: Any) -> None:
    """Before a page runs: move on if that was asked for, offer nothing to play until a page does, and set the style.

    Args:
        pages: all pages in order, as of `st.Page`.
        page: the one that is shown.
    """
    st.session_state.pop(_PLAYED, None)
    lesson = lesson_play.played()
    if st.session_state.pop(_BEGUN, False) and lesson is not None and page.url_path == "lessons":
        _open_lesson_step(lesson[2])
    move = st.session_state.pop(_MOVE, 0)
    if move and is_on():
        _, before, after = _way(pages, page)
        way = before if move < 0 else after
        if way is not None:
            way()
    if is_on():
        theme.add("presenting")
        if not st.session_state.get(_CONTROLS):
            theme.add("folded")


def bar(pages: Sequence[Any], page: Any) -> None:
    """Below the page: the current place, and buttons to move.

    Args:
        pages: all pages in order, as of `st.Page`.
        page: the one that is shown.
    """
    if not is_on():
        return
    words, before, after = _way(pages, page)
    with st.container(key="presenter", horizontal=True, vertical_alignment="center"):
        # Noted, and done before the page that is being left runs again.
        st.button("Previous", key="present_back", icon=":material/arrow_back:", shortcut="PageUp",
                  disabled=before is None, on_click=_move, args=(-1,))  # fmt: skip
        st.html(widgets.rich('<p class="es-where">{words}</p>', words=words))
        st.button("Next", key="present_on", icon=":material/arrow_forward:", shortcut="PageDown", type="primary",
                  disabled=after is None, on_click=_move, args=(1,))  # fmt: skip
        if st.session_state.get(_PLAYING) is not None:
            st.button("Stop", key="present_stop", icon=":material/pause:", shortcut="P", on_click=_stop)
            _go_on_playing()
        elif len(st.session_state.get(_PLAYED, (None, ()))[1]) > 1:
            st.button("Play", key="present_play", icon=":material/play_arrow:", shortcut="P", on_click=_play)
        st.button("Controls", key="present_controls", icon=":material/tune:", shortcut="K", on_click=_switch_controls,
                  help="Shows or hides what runs and views are picked with.")  # fmt: skip
        # Not a toggle: a field that has the focus would take the keys.
        st.button("Predict first", key="present_predict", on_click=_switch_predictions,
                  icon=":material/check_box:" if is_predicting() else ":material/check_box_outline_blank:")  # fmt: skip
        theme_switch.offer("present_theme")
        reset_everything.offer("present_reset", "Reset")
        st.button("Leave", key="present_leave", icon=":material/close:", shortcut="Esc", on_click=leave)
    _focus()(key="focus of the presentation", data={"place": f"{words} {is_predicting()}"})


@cache
def _focus():
    """Gives a newly shown page the focus, so that arrow keys scroll it and no button takes a key."""
    return st.components.v2.component("encore_studio.focus", html="<span></span>", js=_FOCUS)


def _move(by: int) -> None:
    st.session_state[_MOVE] = by


def _way(pages: Sequence[Any], page: Any) -> tuple[str, Way, Way]:
    """The current place in words, and the ones before and after: a step of a lesson or of the Learn page, or a page."""
    lesson = lesson_play.played()
    if lesson is not None:
        _, plan, place = lesson
        words = f"{place + 1} of {len(plan.steps)} · {plan.steps[place].title}"
        return words, *_neighbours([partial(_open_lesson_step, at) for at in range(len(plan.steps))], place)
    keys = [step.key for step in STEPS]
    ways: list[Callable[[], None]] = []
    for other in pages:
        is_learn = other.url_path == "learn"
        ways += [partial(_open_learn_step, key) for key in keys] if is_learn else [partial(st.switch_page, other)]
    place = pages.index(page)
    words = f"{page.title} · page {place + 1} of {len(pages)}"
    n_before = sum(len(keys) if other.url_path == "learn" else 1 for other in pages[:place])
    if page.url_path == "learn":
        step = keys.index(st.session_state["learn_step"])
        words, n_before = f"Learn · step {step + 1} of {len(keys)}", n_before + step
    return words, *_neighbours(ways, n_before)


def _neighbours(ways: Sequence[Callable[[], None]], place: int) -> tuple[Way, Way]:
    return ways[place - 1] if place else None, ways[place + 1] if place + 1 < len(ways) else None


def _open_lesson_step(place: int) -> None:
    lesson_play.go(place)
    lesson_play.open_step(lesson_play.played()[1].steps[place])


def _open_learn_step(key: str) -> None:
    st.switch_page(page_list.script("learn"), query_params={"step": key})
