"""What an installation gets: the files of the wheel, the ranges of its dependencies, and the server's settings."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def tracked(*patterns: str) -> set[str]:
    done = subprocess.run(["git", "-C", ROOT, "ls-files", *patterns], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> set[str]:
    """Of a wheel built from what git knows."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        if (ROOT / name).is_file():  # not one that was deleted and is not committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    stale = folder / "build" / "lib" / "encore_core" / "gone.py"  # of an earlier build in this place
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        folder / "out",
        ".",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = (folder / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(wheel_files):
    """All modules; assets, pages and settings inside the package; no screenshots, no tests, no benchmarks."""
    modules = tracked("encore_core/*.py", "dashboard/*.py")
    carried = tracked("assets", "pages", "encore.toml", "requirements.txt") - tracked("assets/screenshots")
    there = {name for name in modules | carried if (ROOT / name).is_file()}
    inside = {f"encore_core/studio/{name}" for name in there & carried} | {"encore_core/studio/streamlit/config.toml"}
    assert wheel_files == (there & modules) | inside
    assert {name.split("/")[0] for name in wheel_files} == {"encore_core", "dashboard"}


def pins(file: str) -> dict[str, str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))


def test_each_dependency_may_be_newer_than_what_was_tested():
    """The ranges take the version that is pinned, and the next patch release of it, and no next major one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    tested = pins("requirements.txt")
    assert set(ranges) == set(tested)
    for name, number in tested.items():
        major, minor, patch = (*Version(number).release, 0, 0)[:3]
        assert number in ranges[name] and f"{major}.{minor}.{patch + 1}" in ranges[name], name
        assert f"{major + 1}.0" not in ranges[name], name


def test_the_files_are_found_in_an_installation_as_in_a_checkout(tmp_path):
    """`resources` beside a folder that is laid out as a wheel is."""
    package = tmp_path / "encore_core"
    shutil.copytree(ROOT / "assets" / "text", package / "studio" / "assets" / "text")
    shutil.copyfile(ROOT / "encore_core" / "resources.py", package / "resources.py")
    spec = importlib.util.spec_from_file_location("installed_resources", package / "resources.py")
    resources = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(resources)
    assert package / "studio" / "assets" == resources.ASSETS and (resources.ASSETS / "text" / "fluency.txt").is_file()
    assert package / "studio" / "streamlit" / "config.toml" == resources.SERVER_SETTINGS
    # Somebody else's folder "assets" in site-packages is not taken for ours.
    (tmp_path / "assets").mkdir()
    spec.loader.exec_module(resources)
    assert package / "studio" / "assets" == resources.ASSETS
