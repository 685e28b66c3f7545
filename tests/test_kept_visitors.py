"""What a reload brings back: whose it is, for how long, and what makes room for others."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import re
import weakref
from types import SimpleNamespace

import pytest
import tiny_runs
from tiny_pages import markup, opened, pressed, words

from dashboard.server import browser_cookie
from dashboard.server.browser_cookie import NAME, BrowserCookie, key_of
from dashboard.visitors import browser_session
from dashboard.visitors.kept_visitors import KeptVisitors
from dashboard.visitors.models import models as server_models
from encore_core.errors import InputError

MINE, YOURS = (key_of({NAME: letter * 43}) for letter in "my")


@pytest.fixture
def given(monkeypatch, tmp_path):
    """`given(text)`: the limits of this server from now on."""
    file, stamps = tmp_path / "limits.toml", itertools.count(1)
    monkeypatch.setenv("ENCORE_CONFIG", str(file))

    def write(text: str) -> None:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=(next(stamps),) * 2)  # two within a tick of the clock are two all the same

    write("")
    return write


# -- the secret --------------------------------------------------------------------------------------------------------


def answer(accept: str = "text/html,*/*", cookie: str = "", scheme: str = "http", kind: str = "text/html") -> dict:
    """The headers of an answer, by name; those that there are twice as a list."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", kind.encode()), (b"set-cookie", b"other=1")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b"x"})

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"accept", accept.encode()), *([(b"cookie", cookie.encode())] if cookie else [])]
    scope = {"type": "http", "method": "GET", "path": "/edit", "scheme": scheme, "headers": headers}
    asyncio.run(BrowserCookie(app)(scope, None, send))
    found: dict[str, list[str]] = {}
    for name, value in sent[0]["headers"]:
        found.setdefault(name.decode(), []).append(value.decode())
    return found


def given_cookie(headers: dict) -> str:
    return next((one for one in headers["set-cookie"] if one.startswith(NAME)), "")


def test_a_browser_gets_a_secret_once_and_no_script_can_read_it(monkeypatch):
    first, second = given_cookie(answer()), given_cookie(answer())
    assert first != second and re.fullmatch(rf"{NAME}=[\w-]{{43}}; Path=/; HttpOnly; SameSite=Lax", first)
    assert answer()["cache-control"] == ["no-store"] and "other=1" in answer()["set-cookie"]
    held = first.partition(";")[0]
    assert not given_cookie(answer(cookie=f"a=b; {held}")) and "cache-control" not in answer(cookie=held)
    assert given_cookie(answer(cookie=f"{NAME}=short"))  # what is no secret of ours is replaced
    assert not given_cookie(answer(accept="*/*")) and not given_cookie(answer(kind="text/css"))
    assert given_cookie(answer(scheme="https")).endswith("; Secure")
    monkeypatch.setattr(browser_cookie.st, "get_option", lambda name: "studio/")
    assert "Path=/studio;" in given_cookie(answer())


@pytest.mark.parametrize("text", ["", "x", "x" * 42, "x" * 44, "ü" * 43, "x" * 42 + "\n", "../" * 15])
def test_what_is_no_secret_has_no_key(text):
    assert key_of({NAME: text}) is None
    assert key_of({}) is None and key_of({NAME: "x" * 43}) not in (None, MINE)


# -- who gets what -----------------------------------------------------------------------------------------------------


class Desk:
    """Kept visitors with sessions that are opened and closed by hand, and a clock."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.now = 0.0
        self.kept = KeptVisitors(self.open.__contains__, lambda: self.now)

    def put(self, key: bytes, session: str, visitor: object, **fields) -> object:
        self.open.add(session)
        self.kept.put(key, session, visitor, fields)
        return visitor

    def close(self, session: str) -> None:
        self.open.discard(session)
        self.kept.look()
        self.now += 1


@pytest.fixture
def desk(given) -> Desk:
    given("[visitors]\nkeep_minutes = 2\n")
    return Desk()


def visitor() -> SimpleNamespace:
    """Something to be held."""
    return type("Anybody", (), {})()


def test_a_reload_takes_its_own_and_a_second_tab_nothing(desk):
    first = desk.put(MINE, "a", visitor(), subject="Peru")
    assert desk.kept.take(MINE, "b") is None  # its page is open
    desk.close("a")
    assert desk.kept.take(YOURS, "x") is None
    found = desk.kept.take(MINE, "b")
    assert found.visitor is first and found.fields == {"subject": "Peru"} and desk.kept.holder(first) == "b"
    desk.open.add("b")
    assert desk.kept.take(MINE, "c") is None  # taken once


def test_the_page_that_was_closed_last_comes_back_first(desk):
    older, newer = desk.put(MINE, "a", visitor()), desk.put(MINE, "b", visitor())
    desk.close("a")
    desk.close("b")
    desk.open |= {"c", "d"}
    assert [desk.kept.take(MINE, session).visitor for session in "cd"] == [newer, older]


def test_a_connection_that_comes_back_is_nobody_who_waits(desk):
    desk.put(MINE, "a", visitor())
    desk.close("a")
    desk.open.add("a")
    desk.now += 1000
    assert desk.kept.take(MINE, "b") is None and desk.kept.waiting() == 0
    desk.close("a")
    desk.now += 60
    assert desk.kept.take(MINE, "b") is not None  # its time began anew


def test_time_is_over_after_the_minutes_of_the_limits(desk, given):
    gone = weakref.ref(desk.put(MINE, "a", visitor()))
    desk.close("a")
    desk.now = 119
    assert desk.kept.waiting() == 1
    desk.now = 121
    assert desk.kept.take(MINE, "b") is None
    gc.collect()
    assert gone() is None
    given("[visitors]\nkeep_minutes = 0\n")
    desk.put(MINE, "c", visitor())
    desk.close("c")
    assert desk.kept.take(MINE, "d") is None and desk.kept.waiting() == 0


def test_limits_that_cannot_be_read_keep_nobody_and_break_nothing(desk, given):
    given("[visitors]\nkeep_minutes = -1\n")
    desk.put(MINE, "a", visitor())
    desk.close("a")
    assert desk.kept.take(MINE, "b") is None


def test_who_has_waited_longest_goes_first_and_nobody_with_a_page(desk):
    first, second, there = (desk.put(MINE, name, visitor()) for name in "abc")
    desk.close("b")
    desk.close("a")
    assert [desk.kept.give_up() for _ in range(3)] == [second, first, None]
    assert desk.kept.holder(there) == "c"


def test_a_script_that_is_left_behind_does_not_take_a_visitor_back(desk):
    held = desk.put(MINE, "a", visitor(), subject="Peru")
    desk.close("a")
    assert desk.kept.take(MINE, "b").visitor is held
    desk.kept.put(MINE, "a", held, {"subject": "France"})
    assert desk.kept.holder(held) == "b"
    desk.kept.put(MINE, "b", held, {"subject": "Chile"})
    desk.close("b")
    assert desk.kept.take(MINE, "c").fields == {"subject": "Chile"}


def test_forgetting_is_about_one_browser(desk):
    gone, own, beside = (desk.put(MINE, name, visitor()) for name in "abc")
    others = desk.put(YOURS, "d", visitor())
    desk.close("a")
    desk.close("d")
    assert desk.kept.forget(MINE, "b") == [gone]
    assert [desk.kept.holder(one) for one in (gone, own, beside, others)] == [None, None, "c", "d"]


def test_a_session_has_one_visitor(desk):
    broken, fresh = desk.put(MINE, "a", visitor()), desk.put(MINE, "a", visitor())
    assert desk.kept.holder(broken) is None and desk.kept.holder(fresh) == "a"


# -- on the page -------------------------------------------------------------------------------------------------------


class Browser:
    """One browser: which of its pages are open, and the secret that it shows."""

    def __init__(self, monkeypatch) -> None:
        self.key, self.session, self.open = MINE, "first", {"first"}
        monkeypatch.setattr(browser_session, "this_browser", lambda: (self.key, self.session))

    def leave(self, then: str) -> None:
        """Close the page at hand and begin another session."""
        self.open.discard(self.session)
        self.session = then
        self.open.add(then)


@pytest.fixture
def browser(monkeypatch, tiny_folder, tmp_path, surroundings) -> Browser:
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    found = Browser(monkeypatch)
    monkeypatch.setattr("dashboard.visitors.models._has_browser", lambda session: session in found.open)
    server_models.clear()
    yield found
    server_models.clear()


def typed(app, **values):
    app.segmented_control(key="source").set_value("Your own").run()
    for key, text in values.items():
        app.text_input(key=key).set_value(text)
    return app.run()


FACT = {"subject": "Peru", "prompt": "The capital of {} is", "target_new": "Oslo", "target_true": "Lima"}


def test_a_reload_brings_edits_and_fields_back(browser):
    app = typed(opened("edit"), **FACT)
    app.text_area(key="paraphrases").set_value("The main city of {} is\n" * 60)  # too long for the address
    app.selectbox(key="method").set_value("MEMIT").run()
    pressed(app, "apply")
    held = app.session_state["visitor"]
    assert held.session.n_edits == 1
    address = {name: value[0] if isinstance(value, list) else value for name, value in app.query_params.items()}
    browser.leave("second")
    again = opened("edit", **address)
    assert again.session_state["visitor"] is held and "Your edit is still here." in words(again)
    assert {key: again.text_input(key=key).value for key in FACT} == FACT
    assert again.text_area(key="paraphrases").value.count("main city") == 60
    assert again.selectbox(key="method").value == "MEMIT" and 'data-testid="n-edits">1<' in markup(again)
    pressed(again, "undo")
    assert held.session.n_edits == 0 and "bit for bit" in words(again)


def test_another_browser_and_a_second_tab_begin_afresh(browser):
    app = pressed(opened("edit"), "apply")
    held = app.session_state["visitor"]
    browser.session = "beside"
    browser.open.add("beside")
    assert opened("edit").session_state["visitor"] is not held
    browser.session, browser.key = "first", MINE
    browser.leave("elsewhere")
    browser.key = YOURS
    other = opened("edit")
    assert other.session_state["visitor"].session.n_edits == 0 and "still here" not in words(other)


def test_a_tab_whose_edits_went_on_elsewhere_says_so(browser):
    old = pressed(opened("edit"), "apply")
    held = old.session_state["visitor"]
    browser.leave("second")
    assert opened("edit").session_state["visitor"] is held
    browser.session = "first"  # the connection of the first page is back
    browser.open.add("first")
    old.run()
    assert old.session_state["visitor"] is not held and "went on in another tab" in words(old)
    assert held.session.n_edits == 1


def test_a_job_that_a_reload_interrupts_is_finished(browser):
    app = opened("edit")
    held = app.session_state["visitor"]
    held.begin(tiny_runs.FACTS[:2], 1, "skip")

    class Left(BaseException):
        pass

    def leave(what: str, share: float) -> None:
        if what.startswith("Batch 2"):
            raise Left

    with pytest.raises(Left):
        held.work(leave)
    assert held.session.n_edits == 1 and held.job is not None
    browser.leave("second")
    again = opened("edit")
    assert held.session.n_edits == 2 and held.job is None and "Edited 2 facts" in words(again)


def test_a_newcomer_takes_the_room_of_who_has_gone_and_not_of_who_is_there(browser, given):
    given("[visitors]\nvisitors = 1\n")
    app = pressed(opened("edit"), "apply")
    held = app.session_state["visitor"]
    with pytest.raises(InputError, match="full: 1 visitor"):
        server_models().enter(held.loading)
    browser.leave("second")
    browser.key = YOURS
    other = opened("edit")
    assert other.session_state["visitor"] is not held and held.session.n_edits == 0
    # The first page may come back within the time for which Streamlit keeps its session.
    given("[visitors]\nvisitors = 2\n")
    browser.key, browser.session = MINE, "first"
    browser.open.add("first")
    app.run()
    assert app.session_state["visitor"] is not held and "server was full" in words(app)


def test_reset_everything_forgets_what_is_kept(browser):
    pressed(opened("edit"), "apply")
    browser.leave("second")
    browser.session = "beside"  # a tab whose page is open
    browser.open |= {"beside"}
    browser.open.discard("second")
    app = opened("edit")
    assert "still here" in words(app)
    app.button(key="reset_everything").click().run()
    assert "1 edit taken back" in words(app)
    browser.leave("third")
    again = opened("edit")
    assert again.session_state["visitor"].session.n_edits == 0 and "still here" not in words(again)


def test_without_a_secret_a_reload_begins_afresh(browser, monkeypatch):
    monkeypatch.setattr(browser_session, "this_browser", lambda: None)
    app = pressed(opened("edit"), "apply")
    held = app.session_state["visitor"]
    assert opened("edit").session_state["visitor"] is not held and server_models().kept.waiting() == 0
