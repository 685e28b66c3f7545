"""Ctrl+Enter in a text field accepts the text, and nothing else.

Streamlit hears the shortcut of a button wherever the focus is: Ctrl+Enter, which ends the typing in a field, would also
press the button that has it as its shortcut (on Edit it would apply the edit). The field hears the key first, then
Streamlit's own list of shortcuts at the top of the document; in between the key is stopped if it comes from a field.
"""

from __future__ import annotations

from functools import cache

import streamlit as st

_STOP = """
const PRESSED = ['button', 'checkbox', 'radio', 'range', 'submit', 'reset', 'file', 'color'];

const takesText = (node) => {
  if (!(node instanceof HTMLElement)) return false;
  if (node.isContentEditable || node.tagName === 'TEXTAREA') return true;
  if (node.tagName !== 'INPUT' || PRESSED.includes(node.type)) return false;
  // The list of a closed select box is picked from, not typed into.
  return node.getAttribute('role') !== 'combobox' || node.getAttribute('aria-expanded') === 'true';
};

export default function () {
  if (window.esFieldShortcuts) return;
  window.esFieldShortcuts = true;
  // On its way up an event comes here after the app's own listeners and before those of the document.
  document.documentElement.addEventListener('keydown', (event) => {
    const isAccept = event.key === 'Enter' && (event.ctrlKey || event.metaKey);
    if (isAccept && takesText(event.composedPath()[0])) event.stopPropagation();
  });
}
"""


@cache
def _component():
    return st.components.v2.component("encore_studio.field_shortcuts", html="<span></span>", js=_STOP)


def keep_in_fields() -> None:
    """From now on Ctrl+Enter in a field stays there; call once per page, anywhere. It is invisible."""
    _component()(key="field shortcuts")
