"""The switch between light and dark.

Streamlit hears of the new theme as if the operating system had changed it (`assets/first_look/theme.js`); nothing is
loaded anew. The page is asked to run again, because charts and our style sheet are made in the colours of one theme.
"""

from __future__ import annotations

from functools import cache

import streamlit as st

_HTML = '<button type="button" class="es-theme" hidden></button>'

_SWITCH = """
export default function ({ parentElement, setTriggerValue }) {
  const button = parentElement.querySelector('.es-theme');
  // Without our script in the page, and inside another page that decides, there is nothing to switch.
  if (!window.esTheme || new URLSearchParams(location.search).has('embed_options')) return;
  const draw = () => {
    const isDark = window.esTheme.isDark();
    button.textContent = isDark ? '☀ Light' : '☾ Dark';
    button.setAttribute('aria-label', isDark ? 'Light theme' : 'Dark theme');
    button.hidden = false;
  };
  draw();
  button.onclick = () => {
    window.esTheme.choose(window.esTheme.isDark() ? 'light' : 'dark');
    // Once Streamlit has taken the theme over, since it says with every run which one it shows.
    setTimeout(() => setTriggerValue('switched', true), 60);
  };
  const asked = window.matchMedia('(prefers-color-scheme: dark)');
  asked.addEventListener('change', draw);
  return () => asked.removeEventListener('change', draw);
}
"""


@cache
def _component():
    return st.components.v2.component("encore_studio.theme", html=_HTML, js=_SWITCH, isolate_styles=False)


def offer(key: str) -> None:
    """The button, which names the other theme."""
    _component()(key=key, on_switched_change=lambda: None)
