"""Every token of the answers, teacher-forced."""

from __future__ import annotations

from functools import partial

from dashboard.charts import microscope_bars as charts
from dashboard.charts.labels import percent
from dashboard.elements import chart_card, widgets
from dashboard.parts.microscope.looked import Looked
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from encore_core.measures.answer_tokens import AnswerToken, answer_tokens
from encore_core.models.editable import EditableModel


def show(looked: Looked, moment: str) -> None:
    """Draw the view; before and after are in one picture."""
    roles = list(looked.answers)

    def read(lm: EditableModel) -> dict[str, tuple[AnswerToken, ...]]:
        found = answer_tokens(lm, looked.prompt, list(looked.answers.values()), join=looked.join)
        return dict(zip(roles, found, strict=True))

    before, after = looked.before("tokens", read), looked.after("tokens", read)
    rows = frames.token_rows(before, after)
    chart_card.show(
        partial(charts.tokens, rows, looked.answers),
        key="answer tokens",
        heading="Token by token",
        aside="each after the prompt and the answer's own earlier tokens"
        + ("; hollow: unedited, full: edited" if after is not None else ""),
        alt="Probability of every token of the answers; the same values are in the table below.",
        frame=rows,
    )
    widgets.remark(
        " ".join(words.tokens_sentence(looked.answers[role], before[role], after and after[role]) for role in roles)
    )
    columns = [("Answer", ""), ("Token", "name"), ("Probability", "figures"), ("Rank", "figures"),
               ("Otherwise it says", "about")]  # fmt: skip
    table = []
    for role in roles:
        for place, was in enumerate(before[role]):
            now = after[role][place] if after is not None else None
            table.append((looked.answers[role], was.text.strip() or "␣", *_figures(was, now)))
    widgets.table(columns, table, "Every token of the answers")


def _figures(was: AnswerToken, now: AnswerToken | None) -> tuple[str, str, str]:
    """Probability, rank, and what else the model says, before and after."""
    arrow = "\u00a0→\u00a0"
    moments = (was,) if now is None else (was, now)
    return (
        arrow.join(percent(one.probability) for one in moments),
        arrow.join(f"{one.rank:,}" for one in moments),
        " → ".join(f"{one.instead.strip() or '␣'} {percent(one.instead_probability)}" for one in moments),
    )
