"""The picture of the parts, read from the source without importing it: folders, their order, sizes, habits."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A folder may import those above it, never one beside or below it. "." is what lies in the package itself.
ENGINE = (
    "errors words checks resources version runtime autograd storage spreadsheets processes hub methods method_cards "
    "model_rows tuned_rows setting_values ray_core",
    "facts",
    "models",
    "forward",
    "measures",
    "editing",
    "statistics tuning export",
    "runs",
    "cluster",
    "doctor model_check cli __init__",
)
STUDIO = ("page_list links", "charts", "reading", "server", "visitors", "elements", "talk", "browser parts", "app asgi")

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def sources(*tops: str) -> dict[str, Path]:
    """Every module below some top folders, by its full name; a package's name is its folder's."""
    files = [file for top in tops for file in sorted((ROOT / top).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = sources("encore_core", "dashboard", "pages")
PRODUCT = sources("encore_core", "dashboard", "pages", "assets", "benchmarks")
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in PRODUCT.items()}


def imported(name: str) -> set[str]:
    """Every module that a module imports anywhere, by its full name."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by dots; write the full name"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def roots(name: str) -> set[str]:
    return {other.split(".")[0] for other in imported(name)}


def ours(name: str) -> set[str]:
    """Modules of ours that a module imports, without the packages that only hold them."""
    found = imported(name) & set(MODULES)
    return {other for other in found if not any(deeper.startswith(f"{other}.") for deeper in found)} - {name}


def place(name: str) -> tuple[int, str]:
    """The level of a module, counted over the engine and then the studio, and the folder or file that has it."""
    top, _, rest = name.partition(".")
    room = rest.split(".")[0] or "__init__"
    levels = {"encore_core": ENGINE, "dashboard": STUDIO, "pages": ("pages",)}
    before = {"encore_core": 0, "dashboard": len(ENGINE), "pages": len(ENGINE) + len(STUDIO)}
    if top == "pages" or (top, room) == ("dashboard", "__init__"):
        return before[top] + len(levels[top]) - 1, top
    [level] = [number for number, rooms in enumerate(levels[top]) if room in rooms.split()]
    return before[top] + level, f"{top}.{room}"


def is_a_file(room: str) -> bool:
    """Whether what is named in the lists above is a file in the package itself; such files may use their neighbours."""
    return room in MODULES and MODULES[room].name != "__init__.py"


def test_every_file_has_its_room():
    for name in MODULES:
        place(name)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    """Up the list, or within a folder; files that lie in the package itself share a floor with their neighbours."""
    level, room = place(name)
    wrong = set()
    for other in ours(name):
        its_level, its_room = place(other)
        if its_level > level or (its_level == level and room != its_room and not is_a_file(its_room)):
            wrong.add(other)
    assert not wrong


def test_no_two_modules_import_each_other():
    graphlib.TopologicalSorter({name: ours(name) for name in MODULES}).prepare()


def test_no_two_folders_import_each_other():
    arrows = {(place(name)[1], place(other)[1]) for name in MODULES for other in ours(name)}
    assert not [(one, two) for one, two in arrows if one != two and (two, one) in arrows]


@pytest.mark.parametrize("name", [name for name, file in MODULES.items() if file.name == "__init__.py"])
def test_a_folder_lists_its_files_or_none(name):
    """Where a package's docstring says what is in it, it names every file, and no other."""
    text = ast.get_docstring(TREES[name]) or ""
    listed = re.findall(r"^ *([a-z_0-9]+(?:, [a-z_0-9]+)*) {2,}\S", text, re.MULTILINE)
    named = {word for words in listed for word in words.split(", ")}
    inside = {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == name}
    assert not named or named == inside - {"__main__"}


def test_sizes(capsys):
    """The longest file and the longest function of what is shipped, benchmarks included."""
    files = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in PRODUCT.items()}
    functions = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    longest, function = max(files, key=files.get), max(functions, key=functions.get)
    with capsys.disabled():
        print(f"\nlongest file {longest}: {files[longest]} lines; longest function {function}: {functions[function]}")
    assert {name: lines for name, lines in files.items() if lines > MOST_LINES} == {}
    assert {name: lines for name, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("encore_core")])
def test_the_engine_knows_no_interface(name):
    assert not roots(name) & {"streamlit", "plotly", "dashboard", "pages", "tests"}
    # Frames are for those who look at runs; what makes them does without.
    assert name in ("encore_core.runs.series", "encore_core.runs.frames") or "pandas" not in roots(name)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.startswith(("encore_core.facts", "encore_core.methods"))]
)
def test_what_needs_no_torch_imports_none(name):
    heavy = {"torch", "transformers", "safetensors", "tokenizers", "accelerate", "numpy"}
    reached, waiting = set(), {name}
    while waiting:
        current = waiting.pop()
        reached.add(current)
        assert not roots(current) & heavy, current
        waiting |= ours(current) - reached


@pytest.mark.parametrize("name", ["editing.update_rule", "measures.norms", "measures.contributions"])
def test_what_knows_tensors_only(name):
    assert ours(f"encore_core.{name}") <= {"encore_core.errors"}
    assert "transformers" not in roots(f"encore_core.{name}")


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("dashboard.charts")])
def test_charts_turn_frames_into_figures(name):
    assert not roots(name) & {"streamlit", "torch", "transformers", "encore_core"}


@pytest.mark.parametrize("name", [name for name in PRODUCT if name.startswith("encore_core")])
def test_style_that_matters(name):
    """No print as logging (but for the command line), no bare asserts, no edits of the import path, no pickle."""
    tree = TREES[name]
    assert ast.get_docstring(tree)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert "pickle" not in roots(name)
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "torch.load" not in calls
    assert not any(call.startswith("sys.path") for call in calls)
    assert name.split(".")[1:2] == ["cli"] or "print" not in calls
    assert "trust_remote_code=True" not in PRODUCT[name].read_text(encoding="utf-8")
