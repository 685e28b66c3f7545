"""Who comes through a reverse proxy is not taken for somebody at the machine, in a real server and a real browser."""

from __future__ import annotations

import pytest
import served
import test_browser
from test_browser import LONG

pytestmark = test_browser.pytestmark


@pytest.mark.slow
def test_a_visitor_through_a_proxy_names_no_files(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    with served.app() as address, served.browser() as browser:
        for headers, said in (({}, "yes"), ({"X-Forwarded-For": "203.0.113.7"}, "no")):
            page = browser.new_context(extra_http_headers=headers).new_page()
            page.goto(f"{address}/system", timeout=LONG)
            for what in ("Files of this machine may be named", "A judge of generated answers may be named"):
                row = page.locator("tr", has_text=what)
                row.wait_for(timeout=LONG)
                assert row.inner_text().split("\t") == [what, said]
