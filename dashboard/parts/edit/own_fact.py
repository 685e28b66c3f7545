"""A fact of the visitor's own: its form, the model's own answer to it, and neighbours that are proposed."""

from __future__ import annotations

import time

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.elements import widgets
from dashboard.reading import proposals
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.server import limits
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import SLOT, Fact, Neighbour, spelling_note, spelt_as_in

FIELDS = ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours")
FOLLOW_SECONDS = 1.0
"""Seconds without typing after which the results are those of the fact in the form."""

NO_ANSWER_YET = "…"
"""In place of a new answer that has not been typed, where only the prompt matters."""

_ASKED, _SAID, _NOTE, _TYPED = "own fact asks", "own fact, said", "own fact, note", "own fact, typed since"


def fill(fact: Fact) -> None:
    """Put a fact into the form."""
    st.session_state.update(as_fields(fact))


def as_fields(fact: Fact) -> dict[str, str]:
    """Key of a field → what stands in it for this fact."""
    return {
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "target_true": fact.target_true or "",
        # With the slot in them they follow when the visitor types another subject.
        "paraphrases": "\n".join(text.replace(fact.subject, SLOT, 1) for text in fact.paraphrases),
        "neighbours": "\n".join(f"{n.prompt} => {n.target}" for n in fact.neighbours),
    }


@st.fragment
def form() -> None:
    """The form of a typed fact. A fragment, so that typing redraws the preview and nothing else."""
    visitor = browser_session.current()
    in_fragment = bool(get_script_run_ctx().fragment_ids_this_run)
    if in_fragment and (visitor.asked or _ASKED in st.session_state):
        st.rerun()  # the whole page, see `actions._ask`
    _drop_what_no_longer_fits()
    if st.session_state.pop(_ASKED, None) == "neighbours":
        _propose_neighbours(visitor)
    preview = st.container()
    keep = {"live": True, "persist_state": "session"}
    st.text_input("Subject", key="subject", placeholder="France", **keep)
    st.text_input("Prompt", key="prompt", placeholder="The capital of {} is", **keep,
                  help="The text before the answer, with {} or the subject in it once.")  # fmt: skip
    left, right = st.columns(2)
    left.text_input("New answer", key="target_new", placeholder="Rome", **keep)
    right.text_input("True answer (optional)", key="target_true", placeholder="Paris", **keep)
    _own_answer(visitor, may_ask=not in_fragment)
    with st.expander("Paraphrases and neighbours", key="more_prompts", on_change="rerun"):
        st.text_area(
            "Paraphrases, one per line", key="paraphrases", height=90, persist_state="session",
            help="Other ways to ask the same. They should change, too.",
        )  # fmt: skip
        st.text_area(
            "Neighbours, one per line: prompt => answer", key="neighbours", height=150, persist_state="session",
            help="Similar questions about other things. Their answers should stay.",
        )  # fmt: skip
    _offer_neighbours()
    left, right = st.columns(2)
    left.button("Clear", on_click=_clear_fields, width="stretch")
    if in_fragment:
        browser_session.remember()
    try:
        fact = typed_fact()
    except InputError as error:
        with preview:
            widgets.problem(error)
        right.button("Ask the model first", disabled=True, width="stretch")
        return
    with preview:
        _preview(fact)
    if in_fragment and fact != visitor.draft:  # a run of the whole page shows this fact's results anyway
        _follow(fact)
    if right.button("Ask the model first", width="stretch", help="Shows what the model says now."):
        st.rerun()


@st.fragment(run_every=FOLLOW_SECONDS)
def _follow(fact: Fact) -> None:
    """Let the results follow a fact that has been typed, once nobody has typed for a moment."""
    typed, since = st.session_state.get(_TYPED, (None, 0.0))
    now = time.monotonic()
    if typed != fact:
        st.session_state[_TYPED] = fact, now
    elif now - since >= FOLLOW_SECONDS:
        del st.session_state[_TYPED]
        st.rerun()  # the whole page
    # Until then the results are about another fact, and look like it.
    st.html("<style>.st-key-results { opacity: .45; }</style>")


def _drop_what_no_longer_fits() -> None:
    """Empty what came with the gallery's fact once another one is typed over it, and the visitor has not changed it.

    Another subject has another true answer; another prompt has other paraphrases and neighbours, too.
    """
    if _question() is None:  # still being typed
        return
    example = as_fields(bundled_facts()[st.session_state.get("example", 0)])
    typed = {name: st.session_state.get(name) or "" for name in FIELDS}
    gone = ()
    if typed["prompt"].strip() != example["prompt"]:
        gone = ("target_true", "paraphrases", "neighbours")
    elif typed["subject"].strip() != example["subject"]:
        gone = ("target_true",)
    for name in gone:
        if typed[name] and typed[name] == example[name]:
            st.session_state[name] = ""


def _preview(fact: Fact) -> None:
    widgets.sentence(fact)
    typed = st.session_state["subject"].strip()
    if fact.subject != typed:
        said = spelling_note(typed, fact.subject)
        widgets.notice(Message("info", f"{said[0].upper()}{said[1:]}."))
    n_foreign = sum(fact.subject not in text for text in fact.paraphrases)
    if n_foreign:
        widgets.notice(
            Message(
                "warning",
                "One of the paraphrases below does not mention the subject: adapt it."
                if n_foreign == 1
                else f"{n_foreign} of the paraphrases below do not mention the subject: adapt them.",
            )
        )


def _clear_fields() -> None:
    st.session_state.update(dict.fromkeys(FIELDS, ""))
    st.session_state.pop(_NOTE, None)


def typed_fact(**instead: str) -> Fact:
    """The fact in the form.

    Args:
        instead: values that count in place of what is in the fields.

    Raises:
        InputError: naming the field, its value and what would be right.
    """
    values = {name: st.session_state.get(name) or "" for name in FIELDS} | instead
    neighbours: list[str | Neighbour] = []
    for line in values["neighbours"].splitlines():
        if line.strip():
            prompt, arrow, answer = line.rpartition("=>")
            neighbours.append(Neighbour(prompt, answer) if arrow else line)
    fact = Fact(
        subject=spelt_as_in(values["prompt"], values["subject"].strip()),
        prompt=values["prompt"],
        target_new=values["target_new"],
        target_true=values["target_true"],
        paraphrases=[line for line in values["paraphrases"].splitlines() if line.strip()],
        neighbours=neighbours,
    )
    limits.check_fact(fact)
    return fact


# -- the model's own answer --------------------------------------------------------------------------------------------


def _question() -> Fact | None:
    """Subject and prompt as typed, with any new answer; None as long as they cannot be asked."""
    new = (st.session_state.get("target_new") or "").strip() or NO_ANSWER_YET
    try:
        return typed_fact(target_new=new, target_true="", paraphrases="", neighbours="")
    except InputError:
        return None


def _said(visitor: Visitor, fact: Fact, may_ask: bool) -> str | None:
    """How the unedited model goes on after the prompt; None if it has not been asked and may not be asked now."""
    asked = (visitor.lm.fingerprint, fact.text)
    known = st.session_state.get(_SAID)
    if known is not None and known[0] == asked:
        return known[1]
    if not may_ask:
        return None
    text = visitor.before.continuation(fact.text)
    st.session_state[_SAID] = (asked, text)
    return text


def _short(text: str) -> str | None:
    return proposals.short_answer(text, {fact.target_true for fact in bundled_facts() if fact.target_true})


def _own_answer(visitor: Visitor, may_ask: bool) -> None:
    """Offer the model's own answer as the true one. While somebody types the model is not asked."""
    fact = _question()
    if fact is None:
        return
    try:
        text = _said(visitor, fact, may_ask)
    except InputError as error:  # too long for the model, or the visitor does not wait for it
        widgets.remark(f"The model was not asked: {error}")
        return
    if text is None:
        widgets.remark("What the model says to this prompt appears here once you ask it.")
        return
    answer = _short(text)
    if answer is None:
        widgets.remark(f"The model goes on: “{text.strip()[:80]}”. That is no short answer, so type the true one, "
                       "or leave it out.")  # fmt: skip
    elif answer == (st.session_state.get("target_new") or "").strip():
        widgets.remark(f"The model says: {answer}. That is the new answer already; choose another one.")
    elif answer == (st.session_state.get("target_true") or "").strip():
        widgets.remark(f"The model says: {answer}.")
    else:
        _offer(f"The model says: {answer}", "Use it", "use_answer", _use_answer, answer)


def _offer(words: str, button: str, key: str, then, *args: str) -> None:
    """A quiet line with a button at its end."""
    with st.container(key=f"offer_{key}", horizontal=True, wrap=False, vertical_alignment="center"):
        widgets.remark(words)
        st.button(button, key=key, on_click=then, args=args)


def _use_answer(answer: str) -> None:
    st.session_state["target_true"] = answer
    st.session_state[_ASKED] = "results"


# -- neighbours --------------------------------------------------------------------------------------------------------


def _offer_neighbours() -> None:
    """Say whether there are neighbours, what came of the last proposal, and offer one."""
    text = st.session_state.get("neighbours") or ""
    n_lines = sum(bool(line.strip()) for line in text.splitlines())
    fact = _question()
    note = st.session_state.get(_NOTE)
    if note is not None and fact is not None and note[0] == (fact.text, text):
        widgets.notice(note[1])
        return
    if fact is None:
        return
    there = f"{n_lines} neighbour{'s show' if n_lines != 1 else ' shows'} what else changes." if n_lines else (
        "No neighbours yet, so nothing shows what else changes.")  # fmt: skip
    _offer(there, "Propose others" if n_lines else "Propose some", "propose", _ask_for_neighbours)


def _ask_for_neighbours() -> None:
    st.session_state[_ASKED] = "neighbours"


def _propose_neighbours(visitor: Visitor) -> None:
    """Fill in neighbours that the unedited model answers rightly, or say why there are none.

    It asks the model, so it belongs to a run of the whole page, in which a visitor who waits is told so.
    """
    fact = _question()
    if fact is None:
        return
    try:
        true = (st.session_state.get("target_true") or "").strip() or _short(visitor.before.continuation(fact.text))
        asked = proposals.candidates(fact, bundled_facts(), true)
        rated = visitor.before.answer_probabilities([(one.prompt, one.target) for one in asked]) if asked else []
    except InputError as error:
        note = Message("error", str(error))
    else:
        found = [one for one, answer in zip(asked, rated, strict=True) if answer.said][: proposals.N_PROPOSED]
        if found:
            st.session_state["neighbours"] = "\n".join(f"{one.prompt} => {one.target}" for one in found)
            st.session_state["more_prompts"] = True
        note = _outcome(len(found), len(asked))
    st.session_state[_NOTE] = ((fact.text, st.session_state.get("neighbours") or ""), note)


def _outcome(n_found: int, n_asked: int) -> Message:
    if n_found:
        s = "s" * (n_found != 1)
        return Message("success", f"{n_found} neighbour{s} proposed: your prompt about other subjects of the gallery. "
                       "The model gives each of these answers now.")  # fmt: skip
    if n_asked:
        return Message("info", f"No neighbours to propose: your prompt was tried with {n_asked} other subjects of the "
                       "gallery, and the model gives the right answer to none. Type some yourself.")  # fmt: skip
    return Message(
        "info",
        "No neighbours to propose: no kind of fact in the gallery fits this prompt and its true answer. Type some: "
        "other subjects in the same words, with the answers that the model gives.",
    )
