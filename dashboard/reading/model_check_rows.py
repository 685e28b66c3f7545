"""What the Models page says about a model: rows and lines made from a check. Knows no streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashboard.reading.findings import blocks
from dashboard.reading.run_words import duration, moment, size
from dashboard.reading.settings_fields import as_text, settings_read
from encore_core.editing.stored_statistics import Stored
from encore_core.methods import Settings
from encore_core.model_check import ModelCheck
from encore_core.statistics.convergence import Look
from encore_core.statistics.cost import Cost, disk_bytes, memory_bytes
from encore_core.statistics.jobs import Job

PARTS = {
    "weights": ("Weights", "every parameter once"),
    "matrices": ("Edited matrices", "yours, and the ones that a batch works on"),
    "statistics": ("Key statistics", "C0, and P in float64, of each edited layer"),
    "targets": ("Targets", "the backward pass of a batch of 100 facts"),
}
STANDINGS = {
    "validated": ("✓", "good", "for this model"),
    "tuned here": ("✓", "good", "on this model, by encore tune"),
    "untested": ("▲", "warn", "on this model"),
}
"""What is known about hyper-parameters: symbol, tone, and on which model."""
JOB_STATUS = {
    "starting": ("◌", "starting", ""),
    "running": ("▶", "running", "good"),
    "done": ("✓", "done", "good"),
    "stopped": ("■", "stopped", ""),
    "interrupted": ("▲", "interrupted", "warn"),
    "failed": ("✗", "failed", "bad"),
}
"""Status of a job → symbol, word, tone."""

Row = tuple[object, ...]


def memory_rows(check: ModelCheck) -> list[Row]:
    """Memory by part, and what is free."""
    rows: list[Row] = [(*PARTS[part], size(n_bytes)) for part, n_bytes in check.memory.parts.items()]
    enough = check.memory.total <= check.free
    rows.append(("Together", "to edit 100 facts at a time", size(check.memory.total)))
    rows.append(("Free", f"on {check.device} now", (size(check.free), "good" if enough else "warn")))
    return rows


def tiles(check: ModelCheck) -> list[tuple[str, str, str, str]]:
    """The answer at a glance: (name, figure, remark, tone)."""
    short = check.memory.total > check.free
    family = f"architecture: {check.family}"
    answer = ("✗\u00a0no", "see below", "bad") if check.problems else ("✓\u00a0yes", family, "good")
    symbol, tone, _ = STANDINGS[check.settings.standing]
    hyper = (f"{symbol}\u00a0{check.settings.standing}".replace(" ", "\u00a0"), check.source, tone)
    own = sum(one.used is not None for one in check.statistics)
    return [
        ("Can it be edited here?", *answer),
        (
            "Memory needed",
            size(check.memory.total),
            f"to edit {blocks(check.settings.layers)}; {size(check.free)} free on {check.device}",
            "warn" if short else "good",
        ),
        ("Hyper-parameters", *hyper),
        (
            "Key statistics",
            f"{own} of {len(check.statistics)}",
            _gathered(check, own),
            "good" if own == len(check.statistics) else "",
        ),
    ]


def _gathered(check: ModelCheck, own: int) -> str:
    """Which layers have statistics; settings for thousands of edits may edit more layers than those for a few."""
    if not own:
        return "gathered at the first edit"
    if not check.lacking_for_thousands:
        return "edited layers have them"
    return (
        f"of {blocks(check.settings.layers)}; the settings for thousands gather those of "
        f"{blocks(check.lacking_for_thousands)} at the first edit"
    )


def statistics_rows(check: ModelCheck) -> list[Row]:
    """For each edited layer the statistics that edits use, then others that there are."""
    rows: list[Row] = []
    for one in check.statistics:
        if one.used is None:
            words = f"up to {check.settings.statistics_tokens:,}"
            rows.append((f"{one.layer}", "bundled sample", words, "", "at the first edit", ""))
        else:
            rows.append(_row(one.used, check.d_mlp, ("✓ used by edits", "good")))
        rows += [_row(other, check.d_mlp, "") for other in one.others]
    return rows


def _row(one: Stored, d_mlp: int, mark: object) -> Row:
    tokens = (f"{one.tokens:,}", f"{one.tokens / d_mlp:.1f} ×") if one.tokens else ("not known", "")
    return (f"{one.layer}", one.source or "some text", *tokens, moment(one.made), mark)


def settings_rows(check: ModelCheck) -> list[Row]:
    """The hyper-parameters for a few edits, and for thousands where there are some, and how texts will begin."""
    known = [one for one in (check.settings, check.for_thousands) if one is not None]
    rows: list[Row] = [
        (setting.label, *(_told(one, setting.name) for one in known)) for setting in settings_read(known)
    ]
    return [*rows, ("In front of every text", *[check.start_token] * len(known))]


def _told(settings: Settings, name: str) -> str:
    """A value as it is read, not as it is typed: a range of layers has a dash."""
    return as_text(settings, name).replace("-", "–") if name == "layers" else as_text(settings, name)


def cost_line(check: ModelCheck, n_layers: int, tokens: int, enough: bool, samples: bool) -> str:
    """What gathering would take, roughly; the command gives it exactly."""
    seconds = check.statistics_seconds * tokens / check.statistics_tokens
    memory = memory_bytes(check.d_model, check.d_mlp, n_layers, enough)
    sampling = " Sampling the text comes on top and takes several times as long." if samples else ""
    return (
        f"{'At most' if enough else 'About'} {tokens:,} tokens, {tokens / check.d_mlp:.1f} × d_mlp: roughly "
        f"{duration(seconds)} besides loading, {size(memory)} of memory besides the weights, "
        f"{size(disk_bytes(check.d_mlp, n_layers))} of disk.{sampling}"
    )


def needed(check: ModelCheck, layers: Sequence[int], tokens: int, enough: bool) -> Cost:
    """The same as figures, the weights included: the job loads the model once more."""
    memory = memory_bytes(check.d_model, check.d_mlp, len(layers), enough)
    return Cost(
        layers=tuple(layers),
        tokens=tokens,
        seconds=check.statistics_seconds * tokens / check.statistics_tokens,
        sampling_seconds=0.0,
        memory_bytes=check.memory.weights + memory,
        disk_bytes=disk_bytes(check.d_mlp, len(layers)),
        kept_bytes=len(layers) * check.d_mlp**2 * 4,
        missing=tuple(layers),
    )


def job_words(job: Job) -> str:
    """What a job gathers, in a line."""
    request = job.request
    layers = f"layers {', '.join(map(str, request.layers))}" if request.layers else "the usual layers"
    tokens = f", {request.tokens:,} tokens" if request.tokens else ""
    return f"{request.source}, {layers}{tokens}{', until enough' if request.enough else ''}"


def job_state(job: Job) -> str:
    """How far a job is, or how it ended."""
    symbol, word, _ = JOB_STATUS[job.status]
    if job.status == "failed":
        return f"{symbol} {word}: {job.error}"
    if job.status == "done" and job.result:
        ending = {True: "; enough", False: "; more would still change it"}.get(job.result.get("enough"), "")
        return f"{symbol} {word}: {int(job.result['tokens']):,} tokens of {job.result['source']}{ending}"
    if job.total and job.what.startswith("Gathering"):
        left = f", {duration(job.seconds_left)} left" if job.active and job.seconds_left is not None else ""
        return f"{symbol} {word}: {job.done:,} of {job.total:,} tokens{left}"
    return f"{symbol} {word}{f': {job.what}' if job.what else ''}"


def looks_rows(looks: Sequence[Mapping[str, object]]) -> list[Row]:
    """The disturbance at every doubling of the tokens."""
    rows: list[Row] = []
    before: Look | None = None
    for values in looks:
        look = Look.from_dict(values)
        change = look.change(before)
        worst = max(look.disturbance.values())
        rows.append((f"{look.tokens:,}", f"{worst:.3g}", "" if change is None else f"{100 * change:.1f} %"))
        before = look
    return rows
