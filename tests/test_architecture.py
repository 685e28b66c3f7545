"""The picture of the parts: who may import whom, read from the source without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module_name(path: Path) -> str:
    """A module's name below `encore_core`; a package's is its folder's."""
    return ".".join(path.relative_to(ROOT / "encore_core").with_suffix("").parts).removesuffix(".__init__")


ENGINE = {module_name(path): path for path in sorted((ROOT / "encore_core").rglob("*.py"))}
del ENGINE["__init__"]

# Along the flow: what stands further down may import what stands above it, never the other way round.
ORDER = (
    ("errors", "version", "runtime", "joining", "autograd", "resources"),
    ("storage", "tables", "building"),
    ("tuned_rows", "hub"),
    ("hub_models",),
    ("facts.texts", "facts.names"),
    ("facts.slots", "facts.telling", "facts.source"),
    ("facts.fact", "facts.record"),
    ("facts.batches", "facts.parts"),
    ("facts.forms",),
    ("facts.json_rows",),
    ("facts.csv_rows",),
    ("facts.reading",),
    ("facts", "methods", "update_rule", "norms", "contributions", "unpacking"),
    ("catalogue", "families", "placement", "start_token", "edit_values"),
    ("memory", "trial_run", "weight_files"),
    ("checkpoint", "speed"),
    ("models",),
    ("tokens", "edited_matrices"),
    ("prompts", "replay", "rounded", "inspection"),
    ("tracing", "statistics", "statistics.files"),
    ("contexts", "decoding", "packing", "causal_trace"),
    ("packed_attention",),
    ("packed_pass",),
    ("targets", "keys", "covariance", "metrics", "sublayers", "downstream", "fluency"),
    ("editor", "hub_tasks"),
    ("statistics.settling", "statistics.texts", "statistics.npz"),
    ("edit_file", "statistics.gathering", "tuning"),
    ("model_card",),
    ("export",),
    ("runs.key_statistics",),
    ("runs.plan", "runs.machine", "runs.schema"),
    ("runs.rows",),
    ("runs.store", "runs.state", "runs.measuring"),
    ("runs.series", "runs.recorded", "runs.launch", "runs.runner", "runs.estimate", "runs.compare"),
    ("runs", "runs.worker", "runs.export"),
    ("statistics.jobs", "doctor"),
    ("statistics.worker",),
    ("cli.options", "cli.telling"),
    ("cli.fact_files",),
    ("cli.editing", "cli.runs", "cli.doctor"),
    ("cli.statistics", "cli.tune"),
    ("cli",),
    ("cli.__main__",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join(
                    filter(None, ("encore_core" if path.parent.name == "encore_core" else path.parent.name, module))
                )
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def siblings(path: Path) -> set[str]:
    """Modules of the engine that a file imports, without the packages that only hold them."""
    found = {name.removeprefix("encore_core.") for name in imported(path)} & set(ENGINE)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_every_module_of_the_engine_has_its_place():
    assert set(ENGINE) == set(LEVEL)


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_knows_no_interface(name):
    assert not roots(ENGINE[name]) & {"streamlit", "plotly", "dashboard", "pages", "tests"}
    # Frames are for those who look at runs; what makes them does without.
    assert name == "runs.series" or "pandas" not in roots(ENGINE[name])


@pytest.mark.parametrize("name", ENGINE)
def test_imports_go_one_way(name):
    """Strictly upwards in the order above, which leaves no room for cycles."""
    assert {other: LEVEL[other] for other in siblings(ENGINE[name]) if LEVEL[other] >= LEVEL[name]} == {}


@pytest.mark.parametrize("name", ["facts", "methods", "errors", "storage"])
def test_what_needs_no_torch_imports_none(name):
    reached, waiting = set(), {name}
    while waiting:
        current = waiting.pop()
        reached.add(current)
        assert not roots(ENGINE[current]) & {
            "torch",
            "transformers",
            "safetensors",
            "tokenizers",
            "accelerate",
            "numpy",
        }
        waiting |= siblings(ENGINE[current]) - reached


@pytest.mark.parametrize("name", ["update_rule", "norms", "contributions"])
def test_what_knows_tensors_only(name):
    assert siblings(ENGINE[name]) <= {"errors"}
    assert "transformers" not in roots(ENGINE[name])


@pytest.mark.parametrize("path", sorted((ROOT / "dashboard").rglob("*.py")), ids=lambda path: path.stem)
def test_the_dashboard_does_not_know_its_pages(path):
    assert not roots(path) & {"pages", "tests"}


CHARTS = [ROOT / "dashboard" / "palette.py", *sorted((ROOT / "dashboard" / "charts").glob("*.py"))]


@pytest.mark.parametrize("path", CHARTS, ids=lambda path: path.stem)
def test_charts_turn_data_into_figures(path):
    assert not roots(path) & {"streamlit", "torch", "transformers", "encore_core"}


@pytest.mark.parametrize(
    "name",
    [
        "runs_view",
        "report",
        "costs",
        "settings_fields",
        "mpes_pairs",
        "device_queue",
        "limits",
        "lessons",
        "lesson_files",
        "learn/steps",
        "learn/keys_of",
        "learn/anatomy",
        "learn/trial",
    ],
)
def test_what_is_no_widget_knows_no_streamlit(name):
    assert "streamlit" not in roots(ROOT / "dashboard" / f"{name}.py")


@pytest.mark.parametrize("name", ENGINE)
def test_style_that_matters(name):
    """No print as logging (but for the command line), no bare asserts, no edits of the import path, no pickle."""
    tree = ast.parse(ENGINE[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert "pickle" not in roots(ENGINE[name])
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "torch.load" not in calls
    assert not any(call.startswith("sys.path") for call in calls)
    assert name.split(".")[0] == "cli" or "print" not in calls
    assert "trust_remote_code=True" not in ENGINE[name].read_text(encoding="utf-8")
