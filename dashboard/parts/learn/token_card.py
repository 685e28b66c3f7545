"""Step 1: the reader's prompt token by token, and the keys at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.elements import compute_button, widgets
from dashboard.parts.learn import own_fact
from dashboard.parts.learn.prompt_keys import PromptKeys, Token, keys_of
from dashboard.visitors.visitor import Visitor

ROLES = {"": "", "subject": "subject", "last": "last token of the subject"}


def show() -> None:
    with st.container(border=True, key="card_learn"):
        widgets.heading("Where the fact is read", "your prompt on your model, with the edits on it")
        fact = own_fact.pick()

        def work(visitor: Visitor, tell: compute_button.Show) -> PromptKeys:
            tell("Reading keys", 0.9)
            return keys_of(visitor.session, fact)

        found = compute_button.ask("learn_tokens", "Show tokens and keys", fact, work, disabled=fact is None)
        if found is not None:
            _shown(found)


def _shown(found: PromptKeys) -> None:
    strip(found.tokens)
    place = next(number for number, token in enumerate(found.tokens, start=1) if token.role == "last")
    st.caption(
        f"The model's tokenizer cuts the prompt into {len(found.tokens)} tokens. The edit is made at number {place}, "
        "the last one of the subject (framed): only there has the model read the whole name."
    )
    rows = [
        (
            f"layer {one.layer}",
            f"{one.key_norm:.2f}",
            f"{one.value_norm:.2f}",
            f"{one.half:,} of {found.d_mlp:,}",
            "–" if one.same is None else f"{one.same:.2f}",
            f"{one.other:.2f}",
        )
        for one in found.layers
    ]
    columns = [
        ("Edited layer", "name"),
        ("‖k‖", "right"),
        ("‖W k‖", "right"),
        ("Neurons with half of ‖k‖²", "about"),
        ("cos, other contexts", "right"),
        (f"cos, {found.foil}", "right"),
    ]
    widgets.table(columns, rows, "Keys at the subject's last token, per edited layer")
    st.caption(
        f"k has {found.d_mlp:,} numbers and W k {found.d_model:,}. cos: how alike k is to the key of the same subject "
        f"after five sampled prefixes (the least alike of them), and to that of {found.foil} in the same prompt. A "
        "fact can be stored under a key that stays alike in other contexts and differs between subjects."
    )


def strip(tokens: Sequence[Token]) -> None:
    """Tokens side by side, blanks and line ends made visible; the subject's are marked by frame and word, too."""
    cells = ""
    for token in tokens:
        shown = token.text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"
        cells += widgets.rich(
            '<li class="es-token es-token-{role}"><bdi>{text}</bdi><small>{id}</small><small>{about}</small></li>',
            role=token.role or "plain",
            text=shown,
            id=token.id,
            about=ROLES[token.role],
        )
    st.html(f'<ol class="es-tokens" aria-label="Tokens of the prompt">{cells}</ol>')
