"""What pyproject.toml cannot say: a wheel carries pages, assets and settings inside the package `encore_core`.

They stay at the top level of the repository, where people look for them; installed there, `pages` and `assets` would
collide with anybody's. `encore_core/resources.py` finds them in both places.
"""

from pathlib import Path
from shutil import copyfile, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = {"assets": "assets", "pages": "pages", ".streamlit": "streamlit"}
FILES = ("encore.toml", "requirements.txt")
LEFT_OUT = ("assets/screenshots", "__pycache__")


def carried() -> dict[Path, str]:
    """File of the repository → its place below `encore_core/studio`."""
    found = {ROOT / name: name for name in FILES}
    for folder, there in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*")):
            path = file.relative_to(ROOT).as_posix()
            if file.is_file() and not any(part in path for part in LEFT_OUT):
                found[file] = f"{there}{path.removeprefix(folder)}"
    return found


class BuildWithStudio(build_py):
    """build_py, and the studio's files beside the modules."""

    def run(self) -> None:
        if self.editable_mode:  # the checkout has them where they are
            super().run()
            return
        for package in ("encore_core", "dashboard"):  # files of an earlier layout would stay, and be packed
            rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()
        for file, place in carried().items():
            target = Path(self.build_lib, "encore_core", "studio", place)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(file, target)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithStudio})
