"""The answer on top of every page, driven by AppTest on recorded runs that are made up and so known."""

from __future__ import annotations

import html
import re

import made_up_runs
import pytest
import tiny_pages
from made_up_runs import MadeUp
from tiny_pages import address_of, errors, figures, markup, opened, pressed

from encore_core.runs import RunStore

BROKEN = MadeUp("MEMIT", {0: 1, 600: 1.5, 1200: 4.0}, {0: 70, 1200: 3}, {0: 0.18, 1200: 0.19}, growth=2.0, p=0.98)
SOUND = MadeUp("ENCORE", {0: 1, 600: 1.1, 1200: 1.2}, {0: 70, 1200: 69}, {0: 0.18, 1200: 0.185}, growth=1.1)
STOPPED = MadeUp("MEMIT+MPES", {0: 1, 600: 1.2, 1200: 1.9}, {0: 70, 1200: 66}, {0: 0.18, 1200: 0.19}, p=0.6)
SHORT = [MadeUp(method, {0: 1, 40: 1.01}, {}, {0: 0.18, 40: 0.2}, growth=1.004) for method in ("MEMIT", "ENCORE")]


@pytest.fixture(scope="module")
def kept(tiny_folder, statistics_text, tmp_path_factory):
    home = tmp_path_factory.mktemp("made-up")
    return made_up_runs.recorded(home, [BROKEN, SOUND, STOPPED], tiny_folder, statistics_text)


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, kept, surroundings):
    """Recorded runs with known properties, no model that would be loaded, and a store of one's own."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", kept)


@pytest.fixture
def own(tiny_folder, statistics_text) -> list[str]:
    """Two runs of the visitor's own, of 40 edits."""
    return [made_up_runs.write(RunStore(), run, tiny_folder, statistics_text) for run in SHORT]


def answers(app) -> list[str]:
    """The answers on a page, without what stands below them in smaller type."""
    whole = r'<div class="es-answer" role="status">(.*?)(?:<p class="es-aside">|</div>)'
    found = re.findall(whole, markup(app), re.DOTALL)
    found = [text.replace("</p><p", "</p> <p") for text in found]
    return [html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ") for text in found]


@pytest.mark.parametrize(("page", "query", "recorded", "mine"), [
    ("compare", {}, "ENCORE and MEMIT+MPES survive 1,200 edits", "Too few edits to tell"),
    ("norms", {}, "Layer 1, the last one edited, grows most, to ×", "Too few edits to tell."),
    ("contributions", {}, "No, not on this model: as loaded the edited MLPs", "Too few edits to tell"),
    ("downstream", {}, "The model loses nearly all of its mean F1 with MEMIT", "These runs cannot answer that"),
    ("overfitting", {}, "Because the search goes on long after", "Here it makes no significant difference"),
    ("learn", {"step": "again"}, "ENCORE and MEMIT+MPES survive 1,200 edits", "Too few edits to tell"),
    ("learn", {"step": "breaks"}, "ENCORE and MEMIT+MPES survive 1,200 edits", "Too few edits to tell"),
])  # fmt: skip
def test_recorded_runs_answer_first_and_ones_own_at_one_press(own, page, query, recorded, mine):
    app = opened(page, **query)
    assert answers(app)[0].startswith(recorded) and not errors(app)
    pressed(app, "own_runs")
    assert answers(app)[0].startswith(mine) and not errors(app)
    assert set(address_of(app)["run"]) <= set(own)
    pressed(app, "recorded_runs")
    assert answers(app)[0].startswith(recorded) and not errors(app)


def test_start_and_paper_open_with_recorded_runs_too(own):
    app = opened("start")
    assert answers(app)[0].startswith("With some methods it breaks. ENCORE and MEMIT+MPES survive")
    app = opened("paper", table="1")
    assert (
        answers(app)[0].startswith("Yes, wherever there is a clear winner: of")
        and "with against without" in answers(app)[0]
    )
    assert all(run.startswith("recorded-") for run in app.multiselect(key="paper_runs").value)
    pressed(app, "own_runs")
    assert app.multiselect(key="paper_runs").value == own


def test_what_was_chosen_goes_along_and_a_page_of_ones_own_choice_does_not_bind_others(own):
    app = opened("compare")
    assert set(app.multiselect(key="chosen_runs").value) == {
        "recorded-memit", "recorded-encore", "recorded-memit-mpes"}  # fmt: skip
    pressed(app, "own_runs")
    app.switch_page("../pages/norms.py").run()
    assert app.multiselect(key="chosen_runs").value == own
    # An address that a page wrote itself, opened anew, leaves other pages their own choice.
    app = opened("compare", **address_of(opened("compare")))
    app.multiselect(key="chosen_runs").set_value(["recorded-memit"]).run()
    app.switch_page("../pages/norms.py").run()
    assert app.multiselect(key="chosen_runs").value == ["recorded-memit"]


def test_the_lecturers_line_moves_the_answer_and_is_in_the_link():
    app = opened("compare")
    assert "perplexity passes twice its starting value between 600 and 1,200 edits with MEMIT" in answers(app)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", markup(app), re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    assert ["ENCORE", "not within 1,200", "not within 1,200", "1,200"] in cells
    assert ["MEMIT", "600 to 1,200", "0 to 1,200", "1,200"] in cells
    assert "MEMIT<span>: perplexity, 600 to 1,200</span>" in markup(app)
    assert "ENCORE<span>: not within 1,200</span>" in markup(app)
    app.segmented_control(key="compare_perplexity").set_value(1.5)
    app.segmented_control(key="compare_tasks").set_value(0.25).run()
    assert "perplexity passes 1.5 times its starting value between 0 and 600 edits with MEMIT" in answers(app)[0]
    query = address_of(app)
    assert (query["perplexity"], query["tasks"]) == (["1.5"], ["0.25"])
    assert answers(opened("compare", **query)) == answers(app)
    assert answers(opened("compare", perplexity="7", tasks="x")) == answers(opened("compare"))


def test_the_runs_stand_side_by_side_in_their_own_colours():
    app = opened("compare")
    fare, _ = figures(app)
    wide = fare["layouts"]["wide"]
    titles = [note["text"] for note in wide["annotations"]]
    n_rows = 3  # perplexity, tasks, growth: nothing else was measured
    assert len(titles) == 3 * n_rows
    for place in range(n_rows):
        assert [method in title for method, title in
                zip(("MEMIT", "ENCORE", "MEMIT+MPES"), titles[3 * place :], strict=False)] == [True] * 3  # fmt: skip
    assert (wide["yaxis"]["type"], wide["yaxis2"]["matches"], wide["yaxis5"]["matches"]) == ("log", "y", "y4")
    assert wide["yaxis"]["range"] == wide["yaxis3"]["range"] and wide["xaxis9"]["matches"] == "x"
    across = [trace for trace in fare["data"] if trace.get("x") == [0, 1200] and trace["y"][0] == trace["y"][1]]
    assert [trace["y"][0] for trace in across] == [2.0] * 3 + [35.0] * 3  # half of the unedited model's 70


def test_a_run_that_was_stopped_is_said_to_have_been(monkeypatch, tmp_path, tiny_folder, statistics_text):
    early = MadeUp("MEMIT", {0: 1, 600: 1.5}, planned=1200)
    folder = made_up_runs.recorded(tmp_path, [early, SOUND], tiny_folder, statistics_text)
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", folder)
    app = opened("compare", run=["recorded-memit", "recorded-encore"])
    assert "MEMIT was stopped after 600 of 1,200 edits." in markup(app)
    assert ">stopped after 600 of 1,200</td>" in markup(app)


def test_runs_of_which_little_is_known_are_answered_with_that(monkeypatch, recorded_folder):
    """Runs of ten edits, really made, without perplexity and tasks."""
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", recorded_folder)
    for page, said in (("compare", "These runs cannot answer that"), ("downstream", "These runs cannot answer that"),
                       ("contributions", ""), ("norms", ""), ("overfitting", "")):  # fmt: skip
        app = opened(page, run=list(tiny_pages.IDS))
        assert answers(app)[0].startswith(said) and not errors(app), page
