"""One edit through several methods on the Edit page: a column each, what differs, and what one can do with them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
import torch
from streamlit.testing.v1 import AppTest
from tiny_models import COUNTRIES
from tiny_pages import address_of, errors, figures, markup, opened, pressed, unfolded, words

from dashboard.parts.edit import compare_form, compared_files
from dashboard.parts.edit.compared_reading import outcomes_of, see
from dashboard.reading.score_rows import with_interval
from dashboard.visitors.applying_edits import Dropped
from dashboard.visitors.comparison import Comparison
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor
from encore_core.editing.comparison import Arm
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities, questions
from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import evaluate_generated
from encore_core.measures.scores import evaluate

FACT = Fact("Peru", "The capital of {} is", "Rome", "Lima")
SECOND = Fact("Spain", "The capital of {} is", "Oslo", "Madrid")
FOUR = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")


@pytest.fixture(scope="module", autouse=True)
def server(tiny_folder, tmp_path_factory):
    """A server of its own on the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", tmp_path_factory.mktemp("nothing") / "recorded")
        models.clear()
        yield
        models.clear()


@pytest.fixture
def visitor() -> Visitor:
    return opened("edit").session_state["visitor"]


def quiet(words: str, share: float) -> None:
    pass


def compared(visitor: Visitor, arms=FOUR, facts=(FACT,), batch_size: int = 1) -> Comparison:
    visitor.compare([Arm(one) if isinstance(one, str) else one for one in arms], 0, facts, batch_size, "refuse")
    visitor.work(quiet)
    return visitor.comparison


def columns(app: AppTest) -> list[str]:
    """Names of the columns in sight."""
    return [part.partition("</h2>")[0] for part in markup(app).split('class="es-column"')[1:] for part in
            [part.partition("<h2>")[2]]]  # fmt: skip


# -- the visitor -------------------------------------------------------------------------------------------------------


def test_every_column_is_what_the_method_gives_alone(visitor):
    comparison = compared(visitor)
    assert [column.label for column in comparison.columns] == list(FOUR)
    assert visitor.message.kind == "success" and "4 of 4 methods" in visitor.message.text
    for column in comparison.columns:
        alone = EditSession(visitor.lm, column.label)
        alone.edit([FACT])
        for layer, matrix in alone.matrices().items():
            assert torch.allclose(matrix, column.session.matrices()[layer], rtol=1e-6, atol=1e-7)
    assert visitor.session.n_edits == 0 and visitor.n_edits == 4 and visitor.n_sessions == 5


def test_columns_are_told_one_by_one(visitor):
    visitor.compare([Arm(name) for name in FOUR], 0, [FACT], 1, "refuse")
    done, told = [], []
    visitor.work(lambda words, share: told.append((words, share)), lambda column: done.append(column.label))
    assert done == list(FOUR) and not visitor.is_busy
    assert told[-1][0].startswith("AlphaEdit, 4 of 4 · ")
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] <= 1


def test_further_facts_go_to_all_and_are_undone_in_all(visitor):
    comparison = compared(visitor)
    first = [{k: m.clone() for k, m in column.session.matrices().items()} for column in comparison.columns]
    visitor.begin([SECOND], 1, "refuse")
    visitor.work(quiet)
    assert [column.n_edits for column in comparison.columns] == [2, 2, 2, 2] and visitor.session.n_edits == 0
    visitor.undo()
    assert "Undone in 4 columns" in visitor.message.text
    for column, matrices in zip(comparison.columns, first, strict=True):
        assert all(torch.equal(matrices[layer], matrix) for layer, matrix in column.session.matrices().items())
    visitor.undo()
    assert visitor.n_edits == 0 and "as loaded, bit for bit" in visitor.message.text
    visitor.undo()
    assert visitor.message.kind == "error" and "nothing to undo" in visitor.message.text
    # From the unedited models on one search serves all again.
    visitor.begin([SECOND], 1, "refuse")
    visitor.work(quiet)
    assert [column.n_edits for column in comparison.columns] == [1, 1, 1, 1]


def test_a_column_that_fails_says_why_and_the_others_stand(visitor):
    comparison = compared(visitor, ["MEMIT", Arm("ENCORE", {"layers": (77,)}, "ENCORE, far up"), "EMMET"])
    assert [column.n_edits for column in comparison.columns] == [1, 0, 1]
    assert "77" in comparison.columns[1].error and visitor.message.kind == "warning"
    assert "2 of 3 methods" in visitor.message.text and "ENCORE, far up: see the column" in visitor.message.text
    with pytest.raises(InputError, match="no edits that could be kept"):
        visitor.keep(comparison.columns[1])


def test_facts_that_every_method_leaves_alone_are_told_with_the_reason(visitor):
    with visitor.session.pristine() as lm:
        said = next(fact for fact in (Fact("Peru", "The capital of {} is", city) for city in COUNTRIES.values())
                    if answer_probabilities(lm, questions([fact]))[0].said)  # fmt: skip
    visitor.compare([Arm(one) for one in FOUR], 0, [said], 1, "skip")
    visitor.work(quiet)
    assert visitor.message.kind == "warning" and visitor.message.text.startswith("No method edited this. ")
    assert "already" in visitor.message.text


def test_a_stop_in_the_middle_keeps_what_is_done(visitor):
    visitor.compare([Arm(name) for name in FOUR], 0, [FACT], 1, "refuse")

    def stop(words: str, share: float) -> None:
        if words.startswith("EMMET"):
            visitor.cancel()

    visitor.work(stop)
    comparison = visitor.comparison
    assert not visitor.is_busy
    assert [column.n_edits for column in comparison.columns] == [1, 1, 0, 0]
    assert "Done: ENCORE, MEMIT. Not done: EMMET, AlphaEdit." in visitor.message.text
    assert "Stopped before" in comparison.columns[2].error and comparison.columns[0].error is None
    # The report says of those alone what differs that have edited it.
    seen = {column.label: see(visitor, column, FACT, FACT.text, "") for column in comparison.columns}
    assert {one.label for one in outcomes_of(comparison, FACT, seen)} == {"ENCORE", "MEMIT"}
    said = compared_files.report(comparison, FACT, seen, "").decode()
    assert all(f"<h2>{name}</h2>" in said for name in FOUR) and "EMMET left" not in said and "EMMET put" not in said
    visitor.undo()
    assert "Undone in 2 columns" in visitor.message.text and visitor.n_edits == 0


def test_undo_takes_back_what_was_asked_for_last_from_all_that_have_it(visitor):
    visitor.compare([Arm(name) for name in FOUR], 0, [FACT], 1, "refuse")
    visitor.work(lambda words, share: visitor.cancel() if words.startswith("EMMET") else None)
    comparison = visitor.comparison
    visitor.begin([SECOND], 1, "refuse")
    visitor.work(quiet)
    assert [column.n_edits for column in comparison.columns] == [2, 2, 1, 1]
    visitor.undo()
    assert [[fact.subject for fact in column.edited_facts] for column in comparison.columns] == [
        [FACT.subject], [FACT.subject], [], []]  # fmt: skip
    visitor.undo()
    assert comparison.n_edits == 0


def test_work_that_a_rerun_interrupts_is_taken_up_where_it_was(visitor):
    class Left(BaseException):
        pass

    visitor.compare([Arm(name) for name in FOUR], 0, [FACT, SECOND], 1, "refuse")

    def leave(words: str, share: float) -> None:
        if words.startswith("MEMIT") and "Batch 2" in words:
            raise Left

    with pytest.raises(Left):
        visitor.work(leave)
    assert visitor.is_busy and [column.n_edits for column in visitor.comparison.columns] == [2, 1, 0, 0]
    visitor.work(quiet)
    assert [column.n_edits for column in visitor.comparison.columns] == [2, 2, 2, 2] and not visitor.is_busy


def test_a_comparison_that_was_closed_is_not_gone_on_with(visitor):
    visitor.compare([Arm(name) for name in FOUR], 0, [FACT], 1, "refuse")
    comparison = visitor.comparison
    comparison.stop()
    with pytest.raises(Dropped):
        comparison.work(quiet, lambda: True, lambda column: None)


def test_keeping_a_column_takes_it_over(visitor):
    visitor.begin([SECOND], 1, "refuse")
    visitor.work(quiet)
    column = compared(visitor).columns[3]
    visitor.keep(column)
    assert visitor.comparison is None and visitor.session is column.session
    assert visitor.session.settings.method == "AlphaEdit" and visitor.edited_facts == [FACT]
    assert "in place of the 1 that was on your model" in visitor.message.text
    assert visitor.after is column.after


def test_reset_closes_the_comparison_and_leaves_the_visitors_own_edits(visitor):
    visitor.begin([SECOND], 1, "refuse")
    visitor.work(quiet)
    compared(visitor)
    visitor.reset()
    assert visitor.comparison is None and visitor.session.n_edits == 1 and "Your own 1 edit is" in visitor.message.text


def test_four_sessions_count_as_four(visitor, monkeypatch, tmp_path):
    limits = tmp_path / "limits.toml"
    monkeypatch.setenv("ENCORE_CONFIG", str(limits))
    limits.write_text("[visitors]\nedits = 7\n")
    comparison = compared(visitor)
    with pytest.raises(InputError, match="4 edits are on your model, and 1 more by 4 methods each go beyond"):
        visitor.begin([SECOND], 1, "refuse")
    assert visitor.comparison is comparison and not visitor.is_busy
    with pytest.raises(InputError, match="2 more by 4 methods each"):
        visitor.compare([Arm(name) for name in FOUR], 0, [FACT, SECOND], 1, "refuse")
    assert visitor.comparison is comparison and visitor.n_edits == 4
    limits.write_text(f"[visitors]\nvisitors = {models().n_sessions() + 3}\n")
    with pytest.raises(InputError, match=r"4 methods side by side take as much room as 4 visitors.*room for 3 more"):
        models().check_sessions(4)
    models().check_sessions(3)


@pytest.mark.parametrize("arms", [("MEMIT",), (*FOUR, "MEMIT+MPES")])
def test_one_method_or_five_are_no_comparison(visitor, arms):
    with pytest.raises(InputError, match="pick 2 to 4"):
        visitor.compare([Arm(name) for name in arms], 0, [FACT], 1, "refuse")
    assert visitor.comparison is None


# -- the page ----------------------------------------------------------------------------------------------------------


def test_one_press_shows_four_columns_and_says_what_differs():
    app = pressed(opened("edit"), "compare")
    assert columns(app) == list(FOUR) and not errors(app)
    assert markup(app).count("es-words") == 4 and len(figures(app)) == 4
    assert 'class="es-differs"' in markup(app)
    axes = [figure["layouts"]["wide"]["xaxis"]["range"] for figure in figures(app)]
    assert axes == [[0, 1]] * 4
    for column in app.session_state["visitor"].comparison.columns:
        assert f"{column.reports[0].edited[0].steps} steps" in words(app)
    assert "by each of 4" in words(app)


def test_the_strip_tells_the_standing_of_the_least_tested_column():
    app = pressed(opened("edit"), "compare")
    session = app.session_state["visitor"].session
    session.settings = replace(session.settings, tuned=True)
    strip = markup(app.run()).partition('class="es-status"')[2].partition("</dl>")[0]
    assert "untested" in strip and "tuned here" not in strip


def test_a_column_is_kept_and_its_method_is_shown_in_the_form():
    app = pressed(pressed(opened("edit"), "compare"), "keep_1")
    assert app.session_state["visitor"].comparison is None and app.selectbox(key="method").value == "MEMIT"
    assert "Kept: 1 edit by MEMIT" in words(app) and not app.button(key="apply").disabled
    assert app.button(key="apply").label == "Apply edit"


def test_the_same_method_twice_with_other_settings():
    app = opened("edit")
    visitor = app.session_state["visitor"]
    app.selectbox(key="method").set_value("MEMIT").run()
    key = f"setting {visitor.lm.fingerprint} MEMIT steps"
    unfolded(app, "settings_open").number_input(key=key).set_value(3).run()
    app.session_state["settings_open"] = False  # what was typed holds when the box is folded away
    app.multiselect(key="methods compared").set_value(["MEMIT", "ENCORE"]).run()
    pressed(app, "add_column")
    assert app.button(key="compare").label == "Compare 3 methods" and app.button(key="add_column").disabled
    assert address_of(app)["compare"] == ["MEMIT,ENCORE,MEMIT;steps=3"]
    pressed(app, "compare")
    first, _, own = app.session_state["visitor"].comparison.columns
    assert own.label == "MEMIT, steps 3" and own.session.settings.steps == 3
    assert own.reports[0].edited[0].steps <= 2 and first.session.settings.steps != 3


def test_a_link_names_the_methods():
    app = opened("edit", compare="MEMIT,AlphaEdit,MEMIT;steps=4;lr=0.2,nothing,EMMET;bad=1")
    arms = [app.session_state["own columns"].get(label, label) for label in app.session_state["methods compared"]]
    assert arms[:2] == ["MEMIT", "AlphaEdit"] and arms[2].settings == {"steps": 4, "lr": 0.2} and len(arms) == 3
    assert app.session_state["visitor"].comparison is None  # a link edits nothing
    assert compare_form.as_text([Arm(name) for name in FOUR]) == ""


def test_predicted_first_the_columns_are_covered_until_they_are_revealed():
    app = pressed(opened("edit", present="1", predict="1"), "compare")
    assert columns(app) == list(FOUR) and "es-words" not in markup(app) and "es-differs" not in markup(app)
    assert "Which one changes its neighbours least?" in words(app) and "keep_0" not in {b.key for b in app.button}
    pressed(app, "reveal")
    assert markup(app).count("es-words") == 4 and "es-differs" in markup(app)


def test_a_prompt_of_ones_own_is_asked_of_all():
    app = pressed(opened("edit"), "compare")
    app.text_input(key="free_prompt").set_value("A traveller in Rome says").run()
    assert app.selectbox(key="said_prompt").value == "A traveller in Rome says"
    assert words(app).count("A traveller in Rome says") >= 4
    app.text_input(key="free_prompt").set_value("word " * 5000).run()
    assert errors(app) and columns(app) == list(FOUR) and not app.exception


def test_files_hold_every_figure():
    app = pressed(opened("edit"), "compare")
    visitor = app.session_state["visitor"]
    fact, comparison = visitor.shown, visitor.comparison
    seen = {column.label: see(visitor, column, fact, fact.text, "") for column in comparison.columns}
    rows = list(csv.DictReader(io.StringIO(compared_files.csv(seen).decode("utf-8-sig"))))
    assert len(rows) == sum(len(found.rows) for found in seen.values())
    first = next(row for row in rows if row["method"] == "MEMIT" and row["kind"] == "rewrite")
    assert float(first["new_after"]) == pytest.approx(seen["MEMIT"].rows.iloc[0].new_after)
    page = compared_files.report(comparison, fact, seen, "http://here/edit").decode()
    assert all(f"<h2>{name}</h2>" in page for name in FOUR) and "teacher-forced" in page and "lambda_n" in page


def test_a_table_is_compared_batch_by_batch():
    app = opened("edit")
    app.segmented_control(key="source").set_value("Table").run()
    app.text_area(key="pasted").set_value(
        "subject,prompt,target_new,target_true\n"
        "Spain,The capital of {} is,Oslo,Madrid\nPeru,The capital of {} is,Rome,Lima"
    ).run()
    app.number_input(key="batch_size").set_value(1).run()
    pressed(app, "compare")
    comparison = app.session_state["visitor"].comparison
    assert [len(column.reports) for column in comparison.columns] == [2] * 4
    assert "2 facts edited with 4 of 4 methods" in words(app)


def test_closing_leaves_the_page_as_before():
    app = pressed(pressed(opened("edit"), "compare"), "close_comparison")
    assert columns(app) == [] and app.button(key="compare").label == "Compare 4 methods" and not errors(app)


def test_a_tables_facts_are_scored_with_every_method_at_a_press():
    app = opened("edit")
    visitor = app.session_state["visitor"]
    compared(visitor, ("ENCORE", "MEMIT"), (FACT, SECOND), 2)
    app.run()
    assert "Scores of all facts" in markup(app) and "Edit score" not in markup(app)
    app = pressed(app, "measure_compared")
    page = words(app)
    assert "as loaded" in page and "teacher-forced" in page.casefold() and "no judge" in page
    for column in visitor.comparison.columns:
        with column.session.edited() as lm:
            forced, written = evaluate(lm, [FACT, SECOND]), evaluate_generated(lm, [FACT, SECOND])
        assert with_interval(forced.interval("edit_score")) in page
        assert with_interval(written.interval("edit", "contained")) in page
    # the files have the same
    seen = {column.label: see(visitor, column, FACT, FACT.text, "") for column in visitor.comparison.columns}
    measured = [(column.label, column.after.scores([FACT, SECOND]), column.after.generated([FACT, SECOND],
                 GenerationSettings())) for column in visitor.comparison.columns]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(compared_files.csv(seen, measured).decode("utf-8-sig"))))
    [row] = [row for row in rows if row["method"] == "MEMIT" and row["score"] == "edit_score"]
    assert row["kind"] == "score" and row["protocol"].startswith("teacher-forced") and row["n"] == "2"
    assert float(row["value"]) == measured[1][1].edit_score
    assert {row["score"] for row in rows if row["method"] == "ENCORE"} > {"edit, contained", "edit, exact"}
    report = compared_files.report(visitor.comparison, FACT, seen, "", measured).decode()
    assert "Scores of all facts" in report and "no judge" in report and "Edited prompts: text contains it" in report
    # another edit asks anew
    compared(visitor, ("ENCORE", "MEMIT"), (FACT, SECOND), 2)
    app.run()
    assert "Edit score" not in markup(app)
