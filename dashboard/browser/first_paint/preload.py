"""Which of Streamlit's scripts the pages load, so that the browser knows before it finds out by itself.

Streamlit's page names the scripts of its frame. The script of an element is requested when the first element of its
kind arrives, and its imports when it has been read: waves of requests, with our chart at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

ELEMENTS = ("BidiComponent", "Button", "ButtonGroup", "Html", "Multiselect", "PageLink", "Selectbox")
"""Elements of nearly every page; the names are those of Streamlit's files, without their digests."""

STATIC = Path(st.__file__).parent / "static"

_IMPORT = re.compile(r"""(?:from|import)\s*["']\./([\w.-]+\.js)["']""")


def scripts(elements: Sequence[str] = ELEMENTS, static: Path = STATIC) -> list[str]:
    """Names of the elements' scripts and of all that they import, except those that the page names itself.

    Args:
        elements: names of files without digests; those without a file are left out.
        static: Streamlit's folder of files for browsers.
    """
    folder = static / "static" / "js"
    named = set(re.findall(r"static/js/([\w.-]+\.js)", (static / "index.html").read_text(encoding="utf-8")))
    found: list[str] = []
    waiting = [file.name for element in elements for file in sorted(folder.glob(f"{element}.*.js"))]
    while waiting:
        name = waiting.pop(0)
        if name in named or name in found or not (folder / name).is_file():
            continue
        found.append(name)
        waiting += _IMPORT.findall((folder / name).read_text(encoding="utf-8"))
    return found


def tags() -> str:
    """Markup for the head of the page."""
    return "".join(f'<link rel="modulepreload" href="./static/js/{name}">' for name in scripts())
