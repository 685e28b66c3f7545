"""Barriers for those who see badly, do not see, or use no mouse: axe-core on every page, light and dark."""

from __future__ import annotations

from importlib.resources import files

import pytest
import screenshots
import served
from test_browser import LONG, MISSING, wait_until_idle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
GRAVE = ("serious", "critical")


def barriers(page) -> list[str]:
    """What axe-core calls serious or critical, a line each: the rule, where, and what is wrong there."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 10, "axe-core has not looked at the page"
    lines = []
    for rule in found["violations"]:
        for node in rule["nodes"] if rule["impact"] in GRAVE else ():
            why = (node["any"] or node["all"] or node["none"])[0]["message"]
            lines.append(f"{rule['id']}: {node['target']} {node['html'][:200]} {why}")
    return lines


@pytest.mark.parametrize("look", ["light", "dark"])
def test_no_page_has_grave_barriers(tmp_path, monkeypatch, tiny_folder, look):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    found: dict[str, list[str]] = {}
    with served.app() as address, served.browser() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme=look)
        for name in screenshots.PAGES:
            page.goto(screenshots.address_of(f"{address}?embed_options={look}_theme", name), timeout=LONG)
            page.locator("h1").first.wait_for(timeout=LONG)
            wait_until_idle(page)
            page.wait_for_function(screenshots.ALL_DRAWN, timeout=LONG)
            if lines := barriers(page):
                found[name] = lines
    assert not found, "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)
