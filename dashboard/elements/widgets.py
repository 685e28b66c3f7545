"""Pieces of pages. Text of visitors and models becomes part of markup through `rich` alone, which escapes it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import streamlit as st

from dashboard.elements import presentation_mode
from dashboard.reading import fact_words
from dashboard.reading.answers.answer import Answer
from dashboard.reading.model_check_rows import STANDINGS
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import Fact

SYMBOLS = {"error": "✗", "warning": "▲", "info": "ℹ", "success": "✓"}


def rich(template: str, **values: object) -> str:
    """Markup with values put in as text.

    Args:
        template: markup of ours, with `{name}` where a value goes.
        values: anything; escaped.
    """
    return template.format(**{name: html.escape(str(value)) for name, value in values.items()})


def plain(text: str) -> str:
    """Text for a label that Streamlit reads as markdown, so that it is shown as it is.

    Punctuation is escaped. Addresses, mail addresses and `:icons:` are found in text that has been unescaped already,
    so an invisible joiner breaks them.
    """
    escaped = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
    return re.sub(r"(?<=[:@])|(?<=www)", "\u2060", escaped, flags=re.IGNORECASE)


def _together(text: str) -> str:
    """A sentence in which no line ends between a number and its sign or unit."""
    return re.sub(r"(?<=×) (?=\d)|(?<=\d) (?=%|(?:s|min|h|points?)\b)", "\u00a0", text)


def problem(error: InputError | str) -> None:
    """Show what is wrong, beside what it is about."""
    notice(Message("error", str(error)))


def remark(text: str) -> None:
    """A quiet line beside what it is about; nothing in it is read as markdown or markup."""
    st.html(rich('<p class="es-aside" dir="auto">{text}</p>', text=_together(text)))


def caption(text: str) -> None:
    """A caption with figures in it, which are not parted from their units."""
    st.caption(_together(text))


def notice(message: Message | None) -> None:
    """A line for the visitor, in place; nothing in it is read as markdown or markup."""
    if message is None:
        return
    role = "alert" if message.kind == "error" else "status"
    st.html(
        rich(
            '<div class="es-notice es-{kind}" role="{role}"><span class="es-symbol" aria-hidden="true">{symbol}</span>'
            '<span dir="auto">{text}</span></div>',
            kind=message.kind,
            role=role,
            symbol=SYMBOLS[message.kind],
            text=_together(message.text),
        )
    )


def answer(found: Answer) -> None:
    """The answer to a page's question: its first words stand out, and further figures are below in smaller type."""
    st.html(answer_markup(found, folded=presentation_mode.is_on()))


def answer_markup(found: Answer, folded: bool = False) -> str:
    """The same as markup, for the first paint, too.

    Args:
        found: the answer.
        folded: whether all but its first sentence is folded away: a hall reads one sentence, and then looks at charts.
    """
    lead, first, further = map(_together, found.parts)
    below = (rich('<p class="es-further">{further}</p>', further=further) if further else "") + (
        rich('<p class="es-aside">{aside}</p>', aside=_together(found.aside)) if found.aside else ""
    )
    if folded and below:
        below = f'<details class="es-more"><summary>More figures</summary>{below}</details>'
    return (
        rich('<div class="es-answer" role="status"><p><b>{lead}</b>{first}</p>', lead=lead, first=first)
        + below
        + "</div>"
    )


def heading(text: str, aside: str = "") -> None:
    """A card's heading, with a remark on its right."""
    st.html(rich('<div class="es-heading"><h2>{text}</h2><span>{aside}</span></div>', text=text, aside=aside))


def verbatim(text: str) -> None:
    """Text as it is, in a monospaced font. `st.code` would load a highlighter, which takes half a second."""
    st.html(rich('<pre class="es-verbatim" dir="auto">\n{text}</pre>', text=text))


def status_strip(visitor: Visitor) -> None:
    """Which model, how many edits, by which method, and whether its hyper-parameters are validated for this model."""
    lm, settings, n_edits = visitor.lm, visitor.session.settings, visitor.session.n_edits
    n_batches = sum(not batch.is_retraction for batch in visitor.session.history)
    detail = "all taken back" if visitor.session.history else "as loaded"
    detail = f"in {n_batches} batch{'es' * (n_batches != 1)}" if n_edits else detail
    method, standings = settings.method, {settings.standing}
    if visitor.comparison is not None:
        columns = visitor.comparison.columns
        counts = sorted({column.n_edits for column in columns})
        n_edits, detail = counts[-1], f"by each of {len(columns)}"
        if len(counts) > 1:
            detail = f"at most, {counts[0]} at least, by each of {len(columns)}"
        method = ", ".join(column.label for column in columns)
        standings = {column.session.settings.standing for column in columns if column.session is not None} or standings
    standing = max(standings, key=list(STANDINGS).index)  # of several methods, the least tested
    mark = STANDINGS[standing]
    dtype = str(lm.dtype).removeprefix("torch.")
    st.html(
        rich(
            '<dl class="es-status" aria-label="State of the model">'
            "<div><dt>Model</dt><dd>{model} <small>{n_layers} layers · {device} · {dtype}{start}</small></dd></div>"
            '<div><dt>Edits on it</dt><dd><span data-testid="n-edits">{n_edits}</span> '
            "<small>{detail}</small></dd></div>"
            "<div><dt>Method</dt><dd>{method}</dd></div>"
            '<div><dt>Hyper-parameters</dt><dd class="es-tone-{tone}">{symbol} {word} <small>{where}</small></dd></div>'
            "</dl>",
            model=lm.name if len(lm.name) <= 40 else "…" + lm.name[-38:],
            n_layers=lm.n_layers,
            device=lm.device.type,
            dtype=dtype,
            start=f" · {lm.start_text} in front" if lm.start_text else "",
            n_edits=n_edits,
            detail=detail,
            method=method,
            symbol=mark[0],
            word=standing,
            tone=mark[1],
            where=mark[2],
        )
    )


def sentence(fact: Fact) -> None:
    """The fact as a sentence: the subject highlighted in its prompt, the old answer and the new one."""
    start, end = fact.subject_span
    old = rich('<del title="answer before">{true}</del> ', true=fact.target_true) if fact.target_true else ""
    st.html(
        '<p class="es-sentence" dir="auto">'
        + rich(
            "{head}<mark>{subject}</mark>{tail} ",
            head=fact.text[:start],
            subject=fact.subject,
            tail=fact.text[end:],
        )
        + f'<span class="es-answers">{old}<span aria-hidden="true">→</span> '
        + rich('<ins title="answer wanted">{new}</ins></span></p>', new=fact.target_new)
    )
    if fact.subject_found:
        remark(f"Its {fact_words.BY_RULE}: {fact.subject}. No file names it, so look whether it is right.")


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]], caption: str) -> None:
    """A real table, which screen readers can read. A cell may be a `(text, tone)` pair.

    Args:
        columns: (heading, alignment) with alignment "", "right", "figures" or "name" (which never break), or "about"
            (left out on narrow pages).
        rows: cells; all are shown as text.
        caption: what the table holds, for screen readers.
    """
    head = "".join(rich('<th scope="col" class="es-{how}">{text}</th>', how=how, text=text) for text, how in columns)
    body = ""
    for row in rows:
        cells = ""
        for (_, how), cell in zip(columns, row, strict=True):
            text, tone = cell if isinstance(cell, tuple) else (cell, "")
            cells += rich('<td class="es-{how} es-tone-{tone}" dir="auto">{text}</td>', how=how, tone=tone, text=text)
        body += f"<tr>{cells}</tr>"
    st.html(table_markup(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", caption))


def table_markup(content: str, caption: str, kind: str = "") -> str:
    """Markup of a table: where it is wider than the page it scrolls, by the arrow keys, too (so it takes the focus).

    Args:
        content: markup of its head and body.
        caption: what the table holds, for screen readers.
        kind: an additional class.
    """
    return (
        rich('<div class="es-scroll" tabindex="0" role="group" aria-label="{caption}">', caption=caption)
        + rich('<table class="es-table {kind}"><caption>{caption}</caption>', kind=kind, caption=caption)
        + f"{content}</table></div>"
    )


def tiles(items: Sequence[tuple[str, str, str, str]]) -> None:
    """Big figures side by side: (name, figure, remark, tone)."""
    st.html(
        f'<dl class="es-tiles es-tiles-{len(items)}">'
        + "".join(
            rich(
                '<div class="es-tone-{tone}"><dt>{name}</dt><dd>{figure}</dd><dd class="es-remark">{remark}</dd></div>',
                name=name,
                figure=figure,
                remark=remark,
                tone=tone,
            )
            for name, figure, remark, tone in items
        )
        + "</dl>"
    )
