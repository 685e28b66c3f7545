"""Links to a view: a page's address says what it shows, and an address opened later shows it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

View = Mapping[str, str | Sequence[str]]

EVERYWHERE = ("present", "predict", "tour", "give")
"""Parameters that belong to no single page: they stay from page to page."""

_EVERYWHERE = "in every address"
_ON_THE_WAY = "addresses on the way to the browser"
_PAGE = "page of the address"


def catch_up(page: str) -> None:
    """Correct the address where the browser had not received the last one yet when it asked for this run.

    After two quick changes the browser sends the second one with the address from before the first, which would bring
    back the old view. Call this before anything reads the address.

    Args:
        page: the page that is shown, as in the address.
    """
    now, on_the_way = _now(), st.session_state.get(_ON_THE_WAY, [])
    context = get_script_run_ctx()
    goes_back = context is not None and context.is_history_navigation
    if not goes_back and page == st.session_state.get(_PAGE) and now in on_the_way[:-1]:
        st.query_params.from_dict(on_the_way[-1])
        return
    st.session_state[_PAGE], st.session_state[_ON_THE_WAY] = page, [now]


def go(page: str, view: View) -> None:
    """Show a view of a page, even one that this page has just left.

    Args:
        page: the page's file, as `st.switch_page` takes it.
        view: values by name.
    """
    st.session_state.pop(_ON_THE_WAY, None)
    st.switch_page(page, query_params=_lists(view))


def opened(page: str) -> dict[str, list[str]] | None:
    """The view that the address asks for, when it is new to the page: a link was opened, or the browser went back.

    Args:
        page: names the page.

    Returns:
        query parameters, each a list; None when the address is empty, or is what the page wrote itself.
    """
    asked = {name: values for name, values in _now().items() if name not in EVERYWHERE}
    return asked if asked and asked != st.session_state.get(_key(page)) else None


def write(page: str, view: View) -> None:
    """Put a view into the address, so that reloading the page, or sending its address, brings it back.

    Args:
        page: names the page.
        view: values by name; empty ones are left out.
    """
    wanted = _lists(view)
    _put(wanted | _everywhere())
    st.session_state[_key(page)] = wanted


def everywhere(view: View) -> None:
    """Set what the addresses of all pages say from now on, including the current one.

    Args:
        view: values by name, of those in `EVERYWHERE`.
    """
    st.session_state[_EVERYWHERE] = _lists(view)
    present = {name: values for name, values in _now().items() if name not in EVERYWHERE}
    _put(present | _everywhere())


def said_everywhere(name: str) -> str:
    """The value of one of the names in `EVERYWHERE` in all addresses; "" for none."""
    return next(iter(_everywhere().get(name, ())), "")


def address(view: View) -> str:
    """The full address of a view of the current page."""
    return f"{st.context.url or ''}?{urlencode(_lists(view) | _everywhere(), doseq=True)}"


def _everywhere() -> dict[str, list[str]]:
    return st.session_state.get(_EVERYWHERE, {})


def _now() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


def _put(wanted: dict[str, list[str]]) -> None:
    if _now() != wanted:
        st.query_params.from_dict(wanted)
        before = [address for address in st.session_state.get(_ON_THE_WAY, []) if address != wanted]
        st.session_state[_ON_THE_WAY] = [*before[-20:], wanted]


def _lists(view: View) -> dict[str, list[str]]:
    lists = {name: [value] if isinstance(value, str) else list(value) for name, value in view.items()}
    return {name: values for name, values in lists.items() if values and values != [""]}


def _key(page: str) -> str:
    return f"view in the address of {page}"
