"""Pictures of the page before and after an edit, wide and narrow, light and dark.

python tests/screenshots.py FOLDER [--only 1400-light]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import served

LOOKS = [(width, look) for width in (1400, 800) for look in ("light", "dark")]


def settle(page, seconds: float = 240.0) -> None:
    """Wait until the script has run and the charts stand."""
    page.wait_for_selector(".es-status", timeout=1000 * seconds)
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=1000 * seconds)
    page.wait_for_function("!document.querySelector('[data-testid=stApp]').matches('[data-test-script-state=running]')",
                           timeout=1000 * seconds)  # fmt: skip
    page.wait_for_timeout(700)


def shoot(page, path: Path) -> None:
    """The whole page in one picture, and what is seen without scrolling in another."""
    page.screenshot(path=path)
    viewport = page.viewport_size
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": viewport["width"], "height": int(height) + 20})
    page.wait_for_timeout(500)
    page.screenshot(path=path.with_name(f"{path.stem}-full.png"))
    page.set_viewport_size(viewport)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="one look, for example 1400-light")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with served.app() as address, served.browser() as browser:
        for width, look in LOOKS:
            name = f"{width}-{look}"
            if arguments.only not in (None, name):
                continue
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=look)
            page.goto(address + ("?embed_options=dark_theme" if look == "dark" else "?embed_options=light_theme"))
            settle(page)
            shoot(page, arguments.folder / f"edit-{name}-before.png")
            started = time.monotonic()
            page.get_by_role("button", name="Apply edit").click()
            page.wait_for_function(
                "document.querySelector('[data-testid=n-edits]').textContent == '1'", timeout=120_000
            )
            page.wait_for_selector(".es-tone-good .es-remark")
            print(f"{name}: an edit and its probabilities took {time.monotonic() - started:.1f} s")
            settle(page)
            shoot(page, arguments.folder / f"edit-{name}-after.png")
            page.close()


if __name__ == "__main__":
    main()
