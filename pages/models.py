"""Can my model be edited, and what does it need first? A check from its configuration, and its key statistics."""

from __future__ import annotations

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import widgets
from dashboard.parts.models import blocks_card, check_cards, choice, gather_card, jobs_card, statistics_card
from dashboard.visitors import access
from encore_core.errors import InputError


def main() -> None:
    st.title(page_list.question("models"), anchor=False)
    asked = links.opened("models")
    if asked is not None and "model" in asked:
        st.session_state["models_name"] = asked["model"][0]
    name, device, dtype = choice.pick()
    links.write("models", {"model": name})
    if not name:
        choice.catalogue()
        return
    try:
        access.check_model(name)
        check = choice.checked(name, device, dtype, choice.stamp_of(name))
    except InputError as error:
        widgets.problem(error)
        choice.catalogue()
        return
    check_cards.answer(check)
    check_cards.details(check)
    check_cards.tuned(check)
    blocks_card.show(check)
    statistics_card.statistics(check)
    gather_card.gather(check, device, dtype)
    jobs_card.gathering(name)


main()
