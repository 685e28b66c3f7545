"""Pictures of the pages at three widths, light and dark: Edit before and after an edit, the others as they open.

python tests/screenshots.py FOLDER [--only 1400-light] [--pages start,edit,compare]

What stands on the pages about runs are the recorded ones and those of the store in ENCORE_HOME.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import served

PAGES = (
    "start",
    "learn",
    "lessons",
    "edit",
    "run",
    "runs",
    "models",
    "system",
    "compare",
    "norms",
    "contributions",
    "overfitting",
    "downstream",
    "paper",
)
STATES = {"tour": ("start", "tour=1"), "presenting": ("compare", "present=1"),
          "predicting": ("compare", "present=1&predict=1"),
          "again": ("learn", "step=again"), "breaks": ("learn", "step=breaks"),
          "trial": ("learn", "step=norm")}  # fmt: skip
"""Name → page and query of what looks different from the page as it opens."""

INSIDE = ("lens", "trace", "tokens", "moved", "strength")
"""Views of the microscope."""

VIEWS = (*PAGES, *STATES)
LOOKS = [(width, look) for width in (1400, 800, 390) for look in ("light", "dark")]

ALL_DRAWN = "[...document.querySelectorAll('.es-figure')].every((node) => node.querySelector('.main-svg'))"


def settle(page, seconds: float = 240.0) -> None:
    """Wait until the script has run and the charts stand."""
    page.wait_for_selector(".es-status", state="attached", timeout=1000 * seconds)  # hidden while presenting
    page.wait_for_selector(".es-figure .main-svg", timeout=1000 * seconds)
    wait_for_script(page, seconds)


def wait_for_script(page, seconds: float = 240.0) -> None:
    """Wait until the script has run, and a moment for what it drew."""
    page.wait_for_function("!document.querySelector('[data-testid=stApp]').matches('[data-test-script-state=running]')",
                           timeout=1000 * seconds)  # fmt: skip
    # An element's own script may still be on its way.
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')", timeout=1000 * seconds)
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


def address_of(address: str, which: str) -> str:
    """The address of a page, or of one in some state; the default page, Start, is the app's own."""
    path, _, query = address.partition("?")
    page, state = STATES.get(which, (which, ""))
    return f"{path}/{'' if page == 'start' else page}?{'&'.join(filter(None, (query, state)))}"


def shoot_edit(page, address: str, folder: Path, name: str) -> None:
    """The Edit page before and after an edit."""
    page.goto(address_of(address, "edit"))
    settle(page)
    shoot(page, folder / f"edit-{name}-before.png")
    started = time.monotonic()
    page.get_by_role("button", name="Apply edit").click()
    page.wait_for_function("document.querySelector('[data-testid=n-edits]').textContent == '1'", timeout=120_000)
    page.wait_for_selector(".es-tone-good .es-remark")
    print(f"{name}: an edit and its probabilities took {time.monotonic() - started:.1f} s")
    settle(page)
    # The press has scrolled the page; what a visitor sees begins at its top.
    page.locator("[data-testid=stMain]").evaluate("node => node.scrollTo(0, 0)")
    shoot(page, folder / f"edit-{name}-after.png")


def shoot_compared(page, address: str, folder: Path, name: str) -> None:
    """The Edit page with four methods side by side."""
    page.goto(address_of(address, "edit"))
    settle(page)
    started = time.monotonic()
    page.get_by_role("button", name="Compare 4 methods").click()
    page.wait_for_selector(".es-words")
    first = time.monotonic() - started
    page.wait_for_function("document.querySelectorAll('.es-words').length == 4", timeout=120_000)
    took = time.monotonic() - started
    print(f"{name}: the first column took {first:.1f} s, all four {took:.1f} s")
    page.get_by_role("button", name="Keep AlphaEdit").wait_for(timeout=120_000)
    settle(page)
    shoot(page, folder / f"compared-{name}.png")


def shoot_inside(page, address: str, folder: Path, name: str) -> None:
    """Every view of the microscope after an edit."""
    for view in INSIDE:
        page.goto(f"{address_of(address, 'edit')}&inside={view}")
        settle(page)
        if page.locator("[data-testid=n-edits]").inner_text() == "0":
            page.get_by_role("button", name="Apply edit").click()
            page.wait_for_function("document.querySelector('[data-testid=n-edits]').textContent == '1'")
            settle(page)
        trace = page.get_by_role("button", name="Trace this fact")
        if view == "trace" and trace.count():
            trace.click()
        page.locator(".st-key-card_microscope .es-figure .main-svg").first.wait_for(timeout=240_000)
        settle(page)
        viewport = page.viewport_size
        page.set_viewport_size({"width": viewport["width"], "height": 5000})  # nothing lies behind the bar
        page.wait_for_timeout(500)
        page.locator(".st-key-card_microscope").screenshot(path=folder / f"inside-{view}-{name}.png")
        page.set_viewport_size(viewport)


def shoot_page(page, address: str, folder: Path, name: str, which: str) -> None:
    """One of the other pages; on Runs the first run is opened, if there is one."""
    page.goto(address_of(address, which))
    page.wait_for_selector("[data-testid=stMain] h1", timeout=240_000)
    wait_for_script(page)
    page.wait_for_function(ALL_DRAWN, timeout=240_000)
    opener = page.get_by_role("combobox", name="Open a run")
    if which == "runs" and opener.count():
        opener.click()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector(".es-tiles")
        wait_for_script(page)
    shoot(page, folder / f"{which}-{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="one look, for example 1400-light")
    parser.add_argument("--pages", default=",".join((*VIEWS, "compared", "inside")), help="which, with commas between")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with served.app() as address, served.browser() as browser:
        for width, look in LOOKS:
            name = f"{width}-{look}"
            if arguments.only not in (None, name):
                continue
            themed = f"{address}?embed_options={look}_theme"
            for which in arguments.pages.split(","):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=look)
                page.on("pageerror", lambda error, which=which: print(f"{which}: {error}"))
                if which == "edit":
                    shoot_edit(page, themed, arguments.folder, name)
                elif which == "compared":
                    shoot_compared(page, themed, arguments.folder, name)
                elif which == "inside":
                    shoot_inside(page, themed, arguments.folder, name)
                else:
                    shoot_page(page, themed, arguments.folder, name, which)
                page.close()


if __name__ == "__main__":
    main()
