"""Repairs the list of pages in the sidebar for screen readers.

Streamlit puts the sections of its navigation between a list and the list's items, so a screen reader announces a list
without items, and items without a list. Links inside a navigation need neither role, so both are set to be ignored.
"""

from __future__ import annotations

from functools import cache

import streamlit as st

_MEND = """
const mend = () => {
  const found = document.querySelectorAll('[data-testid=stSidebarNavItems], [data-testid=stSidebarNavItems] li');
  for (const node of found) if (node.getAttribute('role') !== 'none') node.setAttribute('role', 'none');
};

export default function () {
  mend();
  // For as long as the page is open: Streamlit makes the list again while it starts.
  if (window.esNavigation) return;
  window.esNavigation = new MutationObserver(mend);
  window.esNavigation.observe(document.body, { childList: true, subtree: true });
}
"""


@cache
def _component():
    return st.components.v2.component("encore_studio.navigation", html="<span></span>", js=_MEND)


def mend() -> None:
    """Repair the list; call once per page, anywhere. It is invisible."""
    _component()(key="navigation mended")
