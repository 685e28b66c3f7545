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


def lasting(page, looks: int = 4) -> list[str]:
    """Barriers of a page that stands: what fades in or is still being put together is looked at again."""
    found = barriers(page)
    for _ in range(looks - 1):
        if not found:
            break
        page.wait_for_timeout(1500)
        wait_until_idle(page)
        found = barriers(page)
    return found


@pytest.mark.slow
def test_no_page_has_grave_barriers(tmp_path, monkeypatch, tiny_folder):
    """Wide in both looks, and narrow, where tables scroll; one loads while the other is looked at."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    looked_at, found = 0, []
    with served.app() as address, served.browser() as browser:
        pages = {
            (look, width): browser.new_page(viewport={"width": width, "height": 900}, color_scheme=look)
            for look, width in (("light", 1400), ("dark", 1400), ("light", 390))
        }
        for name in screenshots.VIEWS:
            for (look, _), page in pages.items():
                themed = screenshots.address_of(f"{address}?embed_options={look}_theme", name)
                page.goto(themed, timeout=LONG, wait_until="commit")
            for (look, width), page in pages.items():
                page.locator("[data-testid=stMain] h1").first.wait_for(timeout=LONG)
                wait_until_idle(page)
                page.wait_for_function(screenshots.ALL_DRAWN, timeout=LONG)
                found += [f"{name}, {look}, {width}: {line}" for line in lasting(page)]
                looked_at += 1
    assert not found, "\n".join(found)
    assert looked_at == 3 * len(screenshots.VIEWS)
