"""The gallery: the facts that come with the program as cards by kind, of which one press puts one into the editor."""

from __future__ import annotations

from itertools import islice

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.elements import widgets
from dashboard.parts.edit import own_fact
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.facts import Fact

AT_ONCE = 12
PER_KIND = 4
"""Cards in sight at first, and of each kind as long as neither a kind nor a search narrows them down."""
LONGEST_SEARCH = 100
HEIGHT = 330
"""Of the box with the cards, in pixels: a dozen are in sight."""
CHOSEN = "border-color: var(--es-action); box-shadow: inset 0 0 0 1px var(--es-action); background: var(--es-panel);"

KINDS = {
    "capital": "Capital of a country",
    "language": "Official language",
    "landmark_city": "City of a landmark",
    "currency": "Currency",
    "city_country": "Country of a city",
    "continent": "Continent",
    "company_country": "Country of a company",
    "product_maker": "Maker of a product",
    "author_language": "Language of an author",
    "work_author": "Author of a work",
    "dish_country": "Country of a dish",
    "landmark_country": "Country of a landmark",
    "city_state": "State of a city",
    "state_capital": "Capital of a state",
    "nationality": "Nationality",
    "profession": "Profession",
    "sport": "Sport",
    "instrument": "Instrument",
    "animal_class": "Class of an animal",
    "river_continent": "Continent of a river",
    "element_symbol": "Chemical symbol",
}
"""Relation → its name on the page, in the order of the page."""

_PICKED, _FIRST, _PAGES = "gallery_picked", "gallery_first", "gallery_pages"


@st.fragment
def pick() -> None:
    """The cards, and the chosen fact as a sentence. A fragment: to look around redraws the cards alone."""
    in_fragment = bool(get_script_run_ctx().fragment_ids_this_run)
    is_picked = st.session_state.pop(_PICKED, False)
    if in_fragment and (is_picked or browser_session.current().asked):
        st.rerun()  # the whole page, see `actions._ask`
    facts = bundled_facts()
    chosen = remembered("example", 0)
    widgets.sentence(facts[chosen])
    with st.container(gap="xsmall"):
        _search_fields()
    if in_fragment:
        browser_session.remember()
    groups = shown(
        facts, relation=st.session_state["relation"], known_only=st.session_state["known_only"],
        search=(st.session_state.get("gallery_search") or "")[:LONGEST_SEARCH], pages=remembered(_PAGES, 1),
        first=remembered(_FIRST, chosen),
    )  # fmt: skip
    n_shown, n_all = sum(map(len, groups.cards.values())), groups.n_all
    if not n_all:
        widgets.notice(Message("info", "No such fact: change the search or the kind, or untick “known only”."))
        return
    # By style, because a button whose label changes is another one and loses the focus. Screen readers read the ✓.
    card = f".st-key-gallery_{chosen} button"
    st.html(f'<style>{card} {{ {CHOSEN} }} {card} p::before {{ content: "✓ "; }}</style>')
    with st.container(key="gallery_cards", height=HEIGHT, border=False, gap="xsmall"):
        for number, (kind, places) in enumerate(groups.cards.items()):
            st.html(widgets.rich('<h3 class="es-kind">{kind}</h3>', kind=name_of(kind)))
            with st.container(key=f"gallery_kind_{number}"):
                for place in places:
                    _card(place, facts[place])
        if groups.has_more:
            st.button(f"More · {n_all - n_shown:,} left", key="gallery_more", on_click=_more, width="stretch")
        elif n_shown < n_all:
            widgets.remark(f"{n_all - n_shown:,} more: pick a kind, or search.")


def _search_fields() -> None:
    facts = bundled_facts()
    remembered("known_only", True)
    remembered("relation", "any")
    st.text_input(
        f"Search {len(facts):,} facts", key="gallery_search", live=True, icon=":material/search:",
        label_visibility="collapsed", placeholder=f"Search {len(facts):,} facts: France, Paris, dish …",
        on_change=_begin_again, persist_state="session",
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.selectbox(
            "Kind", ["any", *sorted({fact.relation for fact in facts}, key=_order)], key="relation",
            format_func=lambda kind: "All kinds" if kind == "any" else name_of(kind), label_visibility="collapsed",
            on_change=_begin_again, persist_state="session",
        )  # fmt: skip
        st.checkbox("known only", key="known_only", on_change=_begin_again, persist_state="session",
                    help="Facts that the embedded model knows: the clearest demonstrations.")  # fmt: skip


def _card(place: int, fact: Fact) -> None:
    parts = {name: widgets.plain(getattr(fact, name) or "–") for name in ("subject", "target_true", "target_new")}
    st.button("**{subject}**: {target_true} → {target_new}".format(**parts), key=f"gallery_{place}", width="stretch",
              on_click=_pick, args=(place,))  # fmt: skip


def _pick(place: int) -> None:
    st.session_state["example"] = place
    st.session_state[_PICKED] = True
    own_fact.fill(bundled_facts()[place])


def fill_from_example() -> None:
    """Put the fact that a link names into the editor; its card comes first."""
    place = st.session_state["example"]
    st.session_state[_FIRST] = place
    st.session_state["gallery_search"] = ""
    _begin_again()
    own_fact.fill(bundled_facts()[place])


def _begin_again() -> None:
    st.session_state[_PAGES] = 1


def _more() -> None:
    st.session_state[_PAGES] += 1


# -- which cards -------------------------------------------------------------------------------------------------------


class Groups:
    """The cards in sight.

    Attributes:
        cards: relation → places of its facts, in the order of the page.
        n_all: how many facts fit.
        has_more: whether a further page would show more of them.
    """

    def __init__(self, cards: dict[str, list[int]], n_all: int, has_more: bool):
        self.cards, self.n_all, self.has_more = cards, n_all, has_more


def shown(
    facts: tuple[Fact, ...], *, relation: str, known_only: bool, search: str, pages: int, first: int | None = None
) -> Groups:
    """Which facts are in sight.

    Args:
        facts: all of them.
        relation: one kind, or "any".
        known_only: leave out what the embedded model does not know.
        search: words that all have to be in a fact.
        pages: how many dozens.
        first: place of the fact whose kind, and which itself, comes first.
    """
    words = search.casefold().split()
    fitting: dict[str, list[int]] = {}
    for place, fact in enumerate(facts):
        fits_kind = relation in ("any", fact.relation) and (fact.known or not known_only)
        if fits_kind and (not words or all(word in _text(fact) for word in words)):
            fitting.setdefault(fact.relation, []).append(place)
    lead = facts[first].relation if first is not None else None
    kinds = sorted(fitting, key=lambda kind: (kind != lead, _order(kind)))
    if lead in fitting:
        fitting[lead].sort(key=lambda place: place != first)
    is_narrowed = bool(words) or relation != "any"
    wanted = [(kind, place) for kind in kinds for place in fitting[kind][: None if is_narrowed else PER_KIND]]
    cards: dict[str, list[int]] = {}
    for kind, place in islice(wanted, AT_ONCE * pages):
        cards.setdefault(kind, []).append(place)
    return Groups(cards, sum(map(len, fitting.values())), len(wanted) > AT_ONCE * pages)


def _text(fact: Fact) -> str:
    """What is searched of a fact."""
    return f"{fact.text} {fact.target_true} {fact.target_new} {name_of(fact.relation)}".casefold()


def name_of(kind: str) -> str:
    """A relation's name on the page."""
    return KINDS.get(kind, kind.replace("_", " ").capitalize())


def _order(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)
