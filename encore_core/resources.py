"""Where the program's own files are: in a checkout beside the packages, in an installation inside them.

A checkout has `assets/`, `pages/`, `encore.toml`, `requirements.txt` and `.streamlit/` at its top level. A wheel
carries them as data of the package `encore_core` (see `pyproject.toml`), where they collide with no other files.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

CODE_FOLDER = PACKAGE.parent
"""The folder of the packages: the top of the checkout, or site-packages."""

INSTALLED = PACKAGE / "studio"
"""The folder that replaces a checkout's top level in an installation."""

HOME = CODE_FOLDER if (CODE_FOLDER / "assets").is_dir() and (CODE_FOLDER / "pages").is_dir() else INSTALLED

ASSETS = HOME / "assets"
PAGES = HOME / "pages"
REQUIREMENTS = HOME / "requirements.txt"
LIMITS = HOME / "encore.toml"
SERVER_SETTINGS = HOME / ("streamlit" if HOME == INSTALLED else ".streamlit") / "config.toml"
