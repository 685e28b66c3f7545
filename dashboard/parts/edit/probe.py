"""The probe: any prompt, put to the model as loaded and to the edited one: text, next words, every token."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.charts import answers as charts
from dashboard.charts.labels import percent
from dashboard.elements import figure, widgets
from dashboard.elements.theme import palette
from dashboard.reading import model_readings
from dashboard.server import limits
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.writing import MOST_TOKENS, Writing, Written

LENGTH, TEMPERATURE, TOP_P, SEED = "probe length", "probe temperature", "probe top_p", "probe seed"

OWN = "your own"


def free_prompt() -> str:
    """The visitor's own prompt; "" for none.

    Raises:
        InputError: when it is too long for this server.
    """
    free = remembered("free_prompt", "") or ""
    limits.check_text("Your own prompt", free)
    return free


def show(visitor: Visitor, fact: Fact) -> str:
    """The card of the probe. Returns the prompt that is put to the models.

    Args:
        visitor: whose models are asked.
        fact: whose prompts are offered, and whose answers are marked.
    """
    edited = visitor.after is not visitor.before
    with st.container(border=True, key="card_said"):
        widgets.heading("What it says", "the model as loaded, and with your edits" if edited else "as loaded")
        prompt = pick_prompt(fact)
        try:
            how = _how()
            texts = {"before": visitor.before.written(prompt, how)}
            if edited:
                texts["after"] = visitor.after.written(prompt, how, texts["before"])
        except InputError as error:
            widgets.problem(error)
            return prompt
        names = {"before": "Before" if edited else "As loaded", "after": "After"}
        for column, (moment, text) in zip(st.columns(len(texts)), texts.items(), strict=True):
            with column:
                st.caption(names[moment])
                _text(prompt, text)
        figure.draw(
            charts.next_tokens(model_readings.tokens_table(texts, fact), palette()),
            key="next tokens",
            has_bar=False,
            alt="The most probable next words with their probabilities.",
        )
        _every_token(texts, names)
    return prompt


def field(fact: Fact) -> None:
    """The field for a prompt of one's own."""
    st.text_input(
        "Try any prompt", key="free_prompt", persist_state="session",
        placeholder=f"e.g. a traveller who visits {fact.subject} will see",
    )  # fmt: skip


def pick_prompt(fact: Fact) -> str:
    """The prompt that is put to the models: the one just typed, or a prompt of this fact."""
    left, right = st.columns([1, 1])
    with left:
        field(fact)
    free = st.session_state["free_prompt"] or ""
    asked = model_readings.prompts_of(fact, free)
    names = {prompt: kind for kind, prompt, _ in reversed(asked)}
    prompts = list(dict.fromkeys(prompt for _, prompt, _ in asked))
    if free != st.session_state.get("free prompt probed", ""):
        # What was just typed is what one wants to see.
        st.session_state["said_prompt"] = free if free in prompts else prompts[0]
    st.session_state["free prompt probed"] = free
    if remembered("said_prompt", prompts[0]) not in prompts:
        st.session_state["said_prompt"] = prompts[0]
    return right.selectbox(
        "or a prompt of this fact", prompts, key="said_prompt",
        format_func=lambda p: f"{OWN if names[p] == 'free' else names[p]}: {p}",
    )  # fmt: skip


def _how() -> Writing:
    """How the texts are written: twelve tokens, the most probable ones, unless the visitor wants it otherwise.

    Raises:
        InputError: for values that cannot be used.
    """
    usual = Writing()
    remembered(LENGTH, usual.tokens)
    remembered(TEMPERATURE, usual.temperature)
    remembered(TOP_P, usual.top_p)
    remembered(SEED, usual.seed)
    length, temperature = st.session_state[LENGTH], st.session_state[TEMPERATURE]
    said = "the most probable word each time" if not temperature else f"sampled at temperature {temperature:g}"
    # Without on_change: with it, a box whose heading changes is another one, and closed.
    with st.expander(f"Up to {length} tokens, {said}", key="probe_how"):
        st.slider("Length in tokens", 1, MOST_TOKENS, key=LENGTH, persist_state="session")
        left, middle, right = st.columns(3)
        left.number_input("Temperature", 0.0, 5.0, key=TEMPERATURE, step=0.1, persist_state="session",
                          help="0: always the most probable token. Higher: less probable ones, too.")  # fmt: skip
        middle.number_input("Top p", 0.01, 1.0, key=TOP_P, step=0.05, persist_state="session", disabled=not temperature,
                            help="Sampled from the most probable tokens that together hold this share.")  # fmt: skip
        right.number_input("Seed of the sampling", 0, 2**31 - 1, key=SEED, step=1, persist_state="session",
                           disabled=not temperature, help="The same seed writes the same text again.")  # fmt: skip
    values = (st.session_state[key] for key in (LENGTH, TEMPERATURE, TOP_P, SEED))
    tokens, temperature, top_p, seed = (
        value if value is not None else default for value, default in zip(values, vars(usual).values(), strict=True)
    )
    return Writing(int(tokens), float(temperature), float(top_p), int(seed))


def _text(prompt: str, text: Written) -> None:
    """The prompt and what was written after it, with an ellipsis where it would go on."""
    st.html(
        widgets.rich(
            '<pre class="es-verbatim" dir="auto">\n{prompt}<b>{text}</b>{more}</pre>',
            prompt=prompt,
            text=text.text,
            more="…" if text.is_cut else "",
        )
    )


def _every_token(texts: Mapping[str, Written], names: Mapping[str, str]) -> None:
    """Every token that was written, with the probability that its model gave it."""
    with st.expander("Every token it wrote, with its probability", key="probe_tokens", on_change="rerun") as opened:
        if not opened.open:
            return
        for moment, text in texts.items():
            if len(texts) > 1:
                st.caption(names[moment])
            st.html('<ol class="es-tokens es-small">' + "".join(map(_token, text.tokens)) + "</ol>")


def _token(written: tuple[str, float]) -> str:
    token, probability = written
    shown = token.replace("\n", "⏎").replace(" ", "␣") or "(nothing)"
    return widgets.rich(
        '<li class="es-token"><span dir="auto">{token}</span><small>{share}</small></li>',
        token=shown,
        share=percent(probability),
    )
