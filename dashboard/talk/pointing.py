"""Where to look: a step of a lesson or of the tour opens at the card that it is about.

A plan names the card by its key (`at`). The page scrolls there once per step, and to its top for a step that names
none; on the tour the card is framed, and the tour's own card stands beside it where there is room.
"""

from __future__ import annotations

from functools import cache

import streamlit as st

_POINT = """
const PATIENCE = 15000;  // ms for the card to be there
const find = (at) => document.querySelector(`[data-testid=stMain] .st-key-${CSS.escape(at)}`);

// Where there is room, beside what is pointed at, else at the window's lower right; without, at its foot, right of the
// menu. A style sheet says how much room it takes.
const ROOM = '(min-width: 60rem) and (min-height: 44rem)';
const beside = (node) => {
  const card = document.querySelector('[data-testid=stLayoutWrapper]:has(> .st-key-tour)');
  if (!card || getComputedStyle(card).position !== 'fixed') return;
  if (!window.matchMedia(ROOM).matches) {
    const main = document.querySelector('[data-testid=stMain]');
    card.style.left = `${main ? main.getBoundingClientRect().left : 0}px`;
    card.style.right = '0';
    return;
  }
  if (!node) return;
  const box = node.getBoundingClientRect(), width = card.offsetWidth, gap = 16;
  const isRight = window.innerWidth - box.right > width + 2 * gap;
  card.style.left = isRight ? `${box.right + gap}px` : 'auto';
  card.style.right = isRight ? 'auto' : '24px';
};

export default function ({ data }) {
  const began = performance.now();
  const main = document.querySelector('[data-testid=stMain]');
  let timer;
  const point = () => {
    const node = data.at ? find(data.at) : null;
    for (const old of document.querySelectorAll('.es-pointed')) if (old !== node) old.classList.remove('es-pointed');
    if (node && data.framed) node.classList.add('es-pointed');
    if (data.framed) beside(node);
    if (window.esPointedAt === data.place) return;
    if (data.at && !node) {
      if (performance.now() - began < PATIENCE) timer = setTimeout(point, 150);
      return;
    }
    window.esPointedAt = data.place;
    if (node) {
      const bar = document.querySelector('.st-key-status');
      const over = bar && !node.contains(bar) && getComputedStyle(bar.parentElement).position === 'sticky'
        ? bar.offsetHeight : 0;
      const scroll = () => main?.scrollBy({ top: node.getBoundingClientRect().top - 72 - over });
      scroll();
      // What is drawn above it later moves it away; a reader who has scrolled meanwhile is left alone.
      let isRead = false;
      const read = () => { isRead = true; };
      for (const moved of ['wheel', 'touchmove', 'keydown', 'pointerdown']) {
        window.addEventListener(moved, read, { once: true, passive: true, capture: true });
      }
      const again = () => { if (node.isConnected && !isRead && window.esPointedAt === data.place) scroll(); };
      for (const wait of [400, 900, 1800, 3500]) setTimeout(again, wait);
    } else main?.scrollTo({ top: 0 });
  };
  point();
  return () => clearTimeout(timer);
}
"""


@cache
def _component():
    return st.components.v2.component("encore_studio.pointing", html="<span></span>", js=_POINT)


def point_at(at: str, place: str, *, framed: bool = False) -> None:
    """Scroll to a card, once.

    Args:
        at: the key of its container; "" for the top of the page.
        place: names the step.
        framed: whether the card is framed for as long as the step lasts.
    """
    _component()(key="pointing", data={"at": at, "place": place, "framed": framed})
