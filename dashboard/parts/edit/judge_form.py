"""A judge of generated answers: which one, asking it about texts, and what came of that.

Nobody is asked without a press. Verdicts are kept for the browser session as they come, so stopping loses none of them.
The key that an address may want is read from the server's environment; it is never typed, shown or part of a link.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.server import limits
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.measures.generated_scores import GeneratedScores, asked_of, with_verdicts
from encore_core.measures.judging import KEY, Asked, Judge, Verdict

WHERE, MODEL, SECONDS, WHO = "judge_where", "judge_model", "judge_seconds", "judge_who"
USUAL_SECONDS = 20
MOST_KEPT = 50_000
"""Verdicts kept for a browser session."""

REASONS = 3
NOBODY, SERVERS, OWN = "No judge", "This server's", "Your own"


def pick() -> Judge | None:
    """Who judges. None for nobody, and after a message on what is missing or not allowed."""
    try:
        of_server, may_name = limits.judge_of_server(), access.may_name_judge()
    except InputError as error:
        widgets.problem(error)
        return None
    who = [NOBODY, *[SERVERS] * (of_server is not None), *[OWN] * may_name]
    if len(who) == 1:
        return None
    if remembered(WHO, NOBODY) not in who:
        st.session_state[WHO] = NOBODY
    chosen = st.segmented_control("Judge of the generated answers", who, key=WHO, required=True, **KEEP)
    if chosen == SERVERS:
        widgets.remark(f"{of_server.model}, which this server asks.")
        return of_server
    return _own() if chosen == OWN else None


def _own() -> Judge | None:
    """The judge in the fields."""
    remembered(SECONDS, USUAL_SECONDS)
    left, middle, right = st.columns([3, 2, 1], vertical_alignment="bottom")
    where = left.text_input("Address (OpenAI-compatible), or a command", key=WHERE,
                            placeholder="http://localhost:8000/v1", **KEEP)  # fmt: skip
    model = middle.text_input("Model at that address", key=MODEL, **KEEP)
    seconds = right.number_input("Seconds", 1, 600, key=SECONDS, help="Longest wait for a verdict.", **KEEP)
    st.caption(
        f"A key, if the address wants one, is read from this machine's environment variable {KEY}. A command reads a "
        'question as JSON {"question", "answers", "said"} and prints yes or no.'
    )
    if not (where or "").strip():
        return None
    try:
        judge = Judge(where.strip(), (model or "").strip() or None, float(seconds))
        access.check_judge(judge)
    except InputError as error:
        widgets.problem(error)
        return None
    return judge


def judged(judge: Judge, scores: Sequence[GeneratedScores], key: str) -> list[GeneratedScores] | None:
    """The same scores with the verdicts that there are, below buttons that ask for the others; None before any.

    Args:
        judge: from `pick`.
        scores: whose texts are judged.
        key: of the buttons.
    """
    known = _known(judge)
    asked = list(dict.fromkeys(one for each in scores for one in asked_of(each)))
    left = [one for one in asked if one not in known]
    failed = [one for one in asked if one in known and known[one][0] is None]
    about = f"{len(left):,} answer{'s' * (len(left) != 1)}"
    if left and st.button(f"Ask the judge about {about}", icon=":material/gavel:", key=f"{key}_ask"):
        _ask(judge, asked, known, key)
    elif failed and st.button(f"Ask again about {len(failed):,} without a verdict", key=f"{key}_again"):
        for one in failed:
            del known[one]
        _ask(judge, asked, known, key)
    if not any(one in known for one in asked):
        return None
    _tell(asked, known)
    return [with_verdicts(each, judge, known) for each in scores]


def _ask(judge: Judge, asked: Sequence[Asked], known: dict[Asked, Verdict], key: str) -> None:
    """Ask until all have been answered, or something is pressed; then the page is drawn anew."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, text="Asking the judge …")
        # A press begins the page anew, which ends the asking.
        st.button("Stop asking", key=f"{key}_stop")

    def tell(done: int) -> None:
        bar.progress(done / len(asked), text=f"Judged: {done:,} of {len(asked):,}")

    try:
        access.check_judge(judge)
        judge.verdicts(asked, tell, known)
    except InputError as error:
        place.empty()
        widgets.problem(error)
        return
    st.rerun()  # the buttons above count what is left


def _known(judge: Judge) -> dict[Asked, Verdict]:
    """What came of questions to a judge in this browser session; questions put to another judge are other questions."""
    name = f"verdicts of {judge.where} {judge.model}"
    known = st.session_state.setdefault(name, {})
    if len(known) > MOST_KEPT:
        known.clear()
    return known


def _tell(asked: Sequence[Asked], known: dict[Asked, Verdict]) -> None:
    """How many have no verdict, and why."""
    reasons = Counter(known[one][1] if one in known else "not asked" for one in asked
                      if known.get(one, (None, ""))[0] is None)  # fmt: skip
    if not reasons:
        return
    lines = [f"{n:,} × {why}" for why, n in reasons.most_common(REASONS)]
    others = sum(reasons.values()) - sum(n for _, n in reasons.most_common(REASONS))
    lines += [f"{others:,} × for other reasons"] * bool(others)
    head = f"{sum(reasons.values()):,} of {len(asked):,} answers have no verdict and are left out of its scores:"
    widgets.notice(Message("warning", "\n".join([head, *lines])))
