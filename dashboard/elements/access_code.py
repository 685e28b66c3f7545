"""The field for the access code, on servers where starting runs needs one."""

from __future__ import annotations

import time

import streamlit as st

from dashboard.elements import widgets
from dashboard.server import limits
from dashboard.visitors import access

WRONG_SECONDS = 1.0
"""The wait after a wrong code."""


def ask_code() -> bool:
    """A field for the access code, where one is needed. Returns whether runs may be started."""
    if access.may_start():
        return True
    with st.form("access_code_form", border=False):
        st.text_input("Access code", type="password", key="access_code", help="Ask the person who runs this server.")
        if st.form_submit_button("Unlock"):
            given = st.session_state["access_code"] or ""
            if limits.is_code(given):
                st.session_state[access.GIVEN] = given
                st.rerun()
            time.sleep(WRONG_SECONDS)
            widgets.problem("That is not the access code of this server.")
    return False
