"""The rows of the store: runs, and the records of their batches and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encore_core.runs import key_statistics
from encore_core.runs.plan import RunPlan

STATUSES = ("queued", "running", "interrupted", "cancelled", "failed", "done")
RESUMABLE = ("interrupted", "cancelled", "failed")

NO_STATISTICS = "none"
"""`RunInfo.statistics` of a run whose method needs no key statistics."""


@dataclass(frozen=True)
class RunInfo:
    """A run as its row says. Times are seconds since the epoch.

    Attributes:
        number: the row's key, with which series are stored.
        id: short name, unique in the store.
        name, tags: given by the user.
        created, started, finished: when; None where not yet.
        plan_json, settings: what it does, as plain JSON values.
        notices: shown before the start.
        facts_digest, order_digest, statistics, statistics_wanted: see `preparing.PreparedRun`.
        statistics_used: a row for each edited layer, see `key_statistics.used`; empty before the first edit, and for
            runs of earlier versions.
        start_token: the token in front of every text, once the model is loaded; empty for none.
        protocols: how facts are scored, in words, by the names in `generated_scores.PROTOCOLS`; empty before the model
            is loaded, and for runs of earlier versions, which were scored teacher-forced.
        device: whose queue it is in: a device of this machine, or "ray:" and a name for a cluster's.
        n_edits: edits wanted.
        status: one of `STATUSES`.
        position: place in its device's queue, from 1; None when it is not queued.
        stop: "cancel" or "interrupt" when it has been asked to stop.
        error: one line on what went wrong.
        cursor: edits saved, from which a resumed run goes on.
        done: edits made, including those since the last saved state.
        skipped: facts that were not edited, see `batch_report.NOT_EDITED`.
        editing_seconds, measuring_seconds: spent so far, summed over what is recorded.
        pid, host, boot_id, heartbeat: of the worker that has it, or had it last.
        detail: its current activity: "phase", "done", "total", "step", "loss", "seconds_per_edit", "seconds_left".
        fingerprint: of the model's weights, once loaded.
        threads: of torch.
        versions, commit: of libraries and code.
        weights_digest: of the edited matrices at the end, 64 hex digits.
        recorded: whether it comes with the program and cannot be changed, see `recorded`.
    """

    number: int
    id: str
    name: str
    tags: tuple[str, ...]
    created: float
    started: float | None
    finished: float | None
    plan_json: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    notices: tuple[str, ...] = field(repr=False)
    facts_digest: str
    order_digest: str
    statistics: str
    device: str
    n_edits: int
    status: str
    position: int | None
    stop: str | None
    error: str | None
    cursor: int
    done: int
    skipped: int
    editing_seconds: float
    measuring_seconds: float
    pid: int | None
    host: str | None
    boot_id: str | None
    heartbeat: float | None
    detail: Mapping[str, Any]
    fingerprint: str | None
    threads: int | None
    versions: Mapping[str, str]
    commit: str | None
    weights_digest: str | None
    statistics_wanted: key_statistics.Rows = field(default=(), repr=False)
    statistics_used: key_statistics.Rows = ()
    start_token: tuple[str, ...] = ()
    protocols: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False

    @property
    def plan(self) -> RunPlan:
        """The plan, as it was prepared.

        Raises:
            InputError: when it was written by another version of the program.
        """
        return RunPlan.from_json(self.plan_json)

    @property
    def method(self) -> str:
        return str(self.plan_json.get("method"))

    @property
    def model(self) -> str:
        return str(self.plan_json.get("model"))

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited blocks."""
        return tuple(self.settings.get("layers", ()))

    @property
    def in_front(self) -> str:
        """What is put in front of every text: a token, or "nothing"; before the model is loaded, what was asked for."""
        if self.start_token or self.fingerprint:
            return self.start_token[0] if self.start_token else "nothing"
        return f"asked for: {self.plan_json.get('start_token', 'none')}"

    @property
    def key_statistics(self) -> str:
        """Which key statistics it has used, in words; before it has used any, what was asked for."""
        if self.statistics_used:
            return key_statistics.described(self.statistics_used)
        return f"asked for: {self.statistics}"

    @property
    def statistics_size(self) -> str:
        """How much text its key statistics are computed from: what was read, or the limit before that."""
        read = {row["tokens"] for row in self.statistics_used}
        if not read:
            return f"up to {self.settings.get('statistics_tokens', 0):,} tokens"
        if 0 in read:
            return "number of tokens not known"
        return " / ".join(f"{tokens:,}" for tokens in sorted(read)) + " tokens"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it unless somebody resumes it."""
        return self.status not in ("queued", "running")

    def as_dict(self) -> dict[str, Any]:
        """The row as plain JSON values, for scripts."""
        hidden = ("number", "plan_json")
        values = {name: value for name, value in vars(self).items() if name not in hidden}
        return values | {
            "method": self.method,
            "model": self.model,
            "tags": list(self.tags),
            "notices": list(self.notices),
            "statistics_wanted": list(self.statistics_wanted),
            "statistics_used": list(self.statistics_used),
            "start_token": self.start_token[0] if self.start_token else None,
            "protocols": dict(self.protocols),
            "plan": dict(self.plan_json),
        }


@dataclass(frozen=True)
class Claim:
    """A worker's right to write to the run it has taken, see `RunStore.claim`."""

    number: int
    id: str
    owner: str


@dataclass(frozen=True)
class SavedState:
    """A state file of a run: after how many edits, its name in the run's folder, and the SHA-256 of its bytes."""

    edits: int
    file: str
    digest: str


@dataclass(frozen=True)
class TargetRow:
    """The result of one fact's target optimisation.

    Attributes:
        fact: place in the run's facts, from 0.
        steps, stopped: gradient steps, and why they ended, or one of `batch_report.NOT_EDITED`.
        loss, nll, kl, decay, probability: at the end, see `targets.Target`; None for a fact without a target.
        probability_before: mean probability of the new answer before the first step, over all contexts; None, too, for
            a search that looks at some of them first.
    """

    fact: int
    steps: int
    stopped: str
    loss: float | None
    nll: float | None
    kl: float | None
    decay: float | None
    probability: float | None
    probability_before: float | None


@dataclass(frozen=True)
class TrajectoryRow:
    """One evaluation of a fact's loss during the search for its target."""

    fact: int
    step: int
    loss: float
    nll: float
    kl: float
    decay: float
    probability: float


@dataclass(frozen=True)
class BatchRecord:
    """What is recorded of a batch when it ends.

    Attributes:
        edits: facts handled from the start of the run to this batch's end.
        facts, skipped: in this batch.
        seconds: by phase.
        targets, trajectories: rows of its facts.
        resident_bytes, peak_bytes: the worker's memory, see `processes.memory_bytes`.
        device_peak_bytes: the accelerator's, None without one.
    """

    edits: int
    facts: int
    skipped: int
    seconds: Mapping[str, float]
    targets: Sequence[TargetRow]
    trajectories: Sequence[TrajectoryRow]
    resident_bytes: int
    peak_bytes: int
    device_peak_bytes: int | None


@dataclass(frozen=True)
class CheckpointRecord:
    """What was measured at a checkpoint; rows as in the tables of the same names, without run and edits.

    Attributes:
        edits: facts handled so far; 0 is the model as it was loaded.
        norms: (layer, norm, ratio).
        scores: (subset, metric, value, n, low, high): with its 95 % interval over n facts. Metrics as in
            `fact_values`.
        contributions: (sublayer, label, kind, layer, share, signed_share).
        measures: (metric, value).
        downstream: (task, metric, value, n, low, high): with its 95 % interval over n tests.
        seconds: by part.
        left_out: parts that were left out, with the reason: "cost" for the cap on measuring, or what went wrong.
        scored: (subset, fact): which facts are in a subset, by place in the run's facts.
        fact_scores: (fact, metric, value): what scores are the means of, from 0 to 1.
        answers: (fact, number, part, kind, prompt, answers, text, ended, exact, contained, judged, unjudged): what the
            model wrote, see `generated_scores.GeneratedAnswer`; the right answers as a JSON list.
        task_answers: (task, test, truth, said, likelier), see `downstream.TaskAnswer`.
    """

    edits: int
    norms: Sequence[tuple[int, float, float]]
    scores: Sequence[tuple[str, str, float | None, int | None, float | None, float | None]]
    contributions: Sequence[tuple[int, str, str, int | None, float, float]]
    measures: Sequence[tuple[str, float]]
    downstream: Sequence[tuple[str, str, float | None, int | None, float | None, float | None]]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    scored: Sequence[tuple[str, int]] = ()
    fact_scores: Sequence[tuple[int, str, float]] = ()
    answers: Sequence[tuple] = ()
    task_answers: Sequence[tuple[str, int, str, str | None, str | None]] = ()
