"""The settings of a run as a table: what was planned, measured, and noted down when it began."""

from __future__ import annotations

from dashboard.elements import widgets
from encore_core.runs import RunInfo


def show(run: RunInfo) -> None:
    """Every setting, a row each."""
    plan, measure = dict(run.plan_json), run.plan_json.get("measure") or {}
    rows = [(name, _shown(value)) for name, value in run.settings.items()]
    rows += [
        (name, _shown(plan.get(name)))
        for name in (
            "model",
            "facts",
            "n_edits",
            "batch_size",
            "checkpoint_every",
            "order",
            "seed",
            "known",
            "device",
            "dtype",
        )
    ]
    rows += [(f"measured: {name}", _shown(value)) for name, value in dict(measure).items()]
    rows += [
        ("facts digest", run.facts_digest),
        ("order digest", run.order_digest),
        ("statistics", run.key_statistics),
        ("in front of every text", run.in_front),
        ("model fingerprint", _shown(run.fingerprint)),
        ("threads", _shown(run.threads)),
        ("commit", _shown(run.commit)),
        ("digest of the edited matrices", _shown(run.weights_digest)),
    ]
    rows += [(f"version of {name}", _shown(value)) for name, value in run.versions.items()]
    widgets.table([("Setting", ""), ("Value", "")], rows, f"Settings of {run.id}")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "–" if value is None else str(value)
