"""The frame around the pages, which `asgi.py` serves.

A page is one file in `pages/` and one entry in `page_list`. Pages that only show runs open without waiting for a
model.
"""

from __future__ import annotations

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard import links, page_list
from dashboard.browser import field_shortcuts, navigation_roles
from dashboard.elements import colour_key, figure, theme, theme_switch, waiting, widgets
from dashboard.parts.run import watching_only
from dashboard.server.garbage import collections
from dashboard.talk import lesson_play, presenter, reset_everything, tour
from dashboard.visitors import access, browser_session
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.models.device_map import DEVICE_NAMES
from encore_core.models.editable import CATALOGUE, DTYPES

PAGES = {
    heading: [
        st.Page(page_list.script(entry.name), title=entry.title, icon=entry.icon, url_path=entry.name,
                default=entry.name == "start")
        for entry in entries
    ]
    for heading, entries in page_list.GROUPS.items()
}  # fmt: skip
WITH_MODEL = ("edit", "run")


def main() -> None:
    st.set_page_config(page_title="ENCORE Studio", page_icon="✏️", layout="wide", initial_sidebar_state=250)
    theme.apply()
    figure.load_library()
    navigation_roles.mend()
    field_shortcuts.keep_in_fields()
    page = st.navigation(PAGES, expanded=True)
    links.catch_up(page.url_path)
    presenter.read_address()
    tour.read_address()
    lesson_play.read_address()
    links.everywhere(presenter.addressed() | tour.addressed() | lesson_play.addressed())
    pages = [page for group in PAGES.values() for page in group]
    presenter.ready(pages, page)
    shown(page)
    presenter.bar(pages, page)


def shown(page: StreamlitPage) -> None:
    """The sidebar and the page, which waits for a model if it needs one."""
    with st.sidebar:
        if page.url_path != "lessons":
            lesson_play.bar()
        sidebar = st.container()
        st.button("Present", key="present", icon=":material/slideshow:", width="stretch", on_click=presenter.begin,
                  help="Large type, no sidebar, Page Down and Page Up to move, Esc to leave.")  # fmt: skip
        colour_key.offer()
        theme_switch.offer("theme")
        reset_everything.offer("reset_everything", width="stretch")
    reset_everything.say()
    if tour.place() is None:
        lesson_play.point(page.url_path)
    tour.card(page)
    if "visitor" not in st.session_state and not _waits_for_a_model(page):
        sidebar.caption("The model is loaded by the first page that uses it.")
        with waiting.shown():
            page.run()
        return
    place = st.empty()
    try:
        visitor = browser_session.visitor(_progress_in(place))
    except InputError as error:
        with place.container():
            widgets.problem(error)
            st.button("Try again", type="primary")
        return
    place.empty()
    with sidebar:
        choose_model(visitor)
    with waiting.shown():
        page.run()
    browser_session.remember()


def _waits_for_a_model(page: StreamlitPage) -> bool:
    return page.url_path in WITH_MODEL and not (page.url_path == "run" and watching_only.is_wanted())


def _progress_in(place):
    """A function that shows the progress of a model's loading: words and a bar."""

    def show(what: str, share: float) -> None:
        with place.container():
            st.html('<p class="es-sentence">Getting the model ready</p>')
            st.progress(min(1.0, max(0.0, share)), text=f"{what} …")
            st.caption("The first start takes up to a minute; later ones take seconds.")

    return show


def choose_model(visitor: Visitor) -> None:
    """Sidebar: load another model. When that fails, the present one stays and the reason is shown here."""
    with st.form("choose_model", border=False):
        st.selectbox(
            "Model",
            list(CATALOGUE),
            key="model_name",
            accept_new_options=True,
            persist_state="session",
            help="A name from the list, or type a folder that holds a transformers model, or a hub id: org/name, or "
            "org/name@revision for one of its branches, tags or commits.",
        )
        st.selectbox(
            "Device",
            ["auto", *DEVICE_NAMES],
            key="model_device",
            persist_state="session",
            help="balanced spreads a large model over all GPUs and keeps the rest in the computer's memory.",
        )
        st.selectbox("Number format", ["auto", *DTYPES], key="model_dtype", persist_state="session")
        if visitor.n_edits:
            st.caption("Loading another model drops the edits made on this one.")
        asked = st.form_submit_button("Load model", width="stretch")
    if not asked:
        return
    name = (st.session_state["model_name"] or "").strip()
    if not name:
        widgets.problem("Model is blank: pick a name, or type a folder or a hub id.")
        return
    try:
        access.check_model(name)
    except InputError as error:
        widgets.problem(error)
        return
    loading = models().get(name, st.session_state["model_device"], st.session_state["model_dtype"])
    place = st.empty()
    loading.wait(lambda what, share: place.progress(min(1.0, share), text=f"{what} …"))
    place.empty()
    if loading.error:
        widgets.problem(loading.error)
    elif loading is not visitor.loading:
        visitor.use(loading)
        st.rerun()


with collections.page_runs():
    main()
