"""Hostile text and files over every field, upload and address: no exception, nothing interpreted, nobody else harmed.

What a page sends to the browser is looked at, element by element: text that Streamlit reads as markdown, and what
Plotly reads as markup, must not hold a hostile text as it is; HTML may hold the program's own tags only.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny_models
import tiny_runs
from hostile_inputs import EDIT_FILES, FILES, LESSONS, TEXTS
from streamlit.testing.v1 import AppTest
from tiny_pages import WORKER_STARTERS, opened, unfolded

from dashboard.elements import widgets
from dashboard.visitors.models import models
from encore_core.models.settings import settings_of
from encore_core.runs import RunStore
from encore_core.spreadsheets import neutral_csv

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))

TAGS = {
    "abbr", "b", "bdi", "br", "caption", "code", "dd", "del", "dfn", "div", "dl", "dt", "em", "figcaption", "figure",
    "h2", "h3", "i", "ins", "kbd", "li", "mark", "math", "mi", "mn", "mo", "mrow", "msub", "msup", "ol", "p", "pre",
    "section", "small", "span", "strong", "style", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
    "var",
}  # fmt: skip
"""Tags that the program itself writes; none of them loads or does anything."""

ATTRIBUTES = {"class", "role", "title", "dir", "scope", "style", "id", "lang", "colspan", "rowspan", "tabindex"}
"""With `aria-…` and `data-…`, what they may have."""

SPECIAL = re.compile(r"[<>*_`#\[\]$~|\\:]|https?://")
"""What makes a text mean something to markdown; others may be shown as they are."""

QUERY = (
    "run", "at", "scale", "layers", "layer", "facts", "value", "show", "before", "after", "text", "fact", "metric",
    "step", "table", "dataset", "source", "subject", "prompt", "answer", "target_new", "method", "model", "n",
    "tour", "present", "predict", "lesson", "new", "true", "paraphrases", "neighbours", "try", "edits", "batch",
    "every", "seed", "order", "known", "x<y>",
)  # fmt: skip
"""Names that pages read from their address, and some that they do not."""


# -- looking at what goes out ------------------------------------------------------------------------------------------


class _Markup(HTMLParser):
    """Complains about tags and attributes that are not the program's own."""

    def __init__(self) -> None:
        super().__init__()
        self.strange: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.strange.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES and not name.startswith(("aria-", "data-")):
                self.strange.append(f"<{tag} {name}={value!r}>")
            if name == "style" and "url" in (value or ""):
                self.strange.append(f"style {value!r}")

    def handle_decl(self, decl: str) -> None:
        self.strange.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.strange.append(f"<?{data}>")

    def handle_comment(self, data: str) -> None:
        self.strange.append(f"<!--{data}-->")


def strange_markup(body: str) -> list[str]:
    parser = _Markup()
    parser.feed(body)
    parser.close()
    return parser.strange


MARKDOWN_FIELDS = ("label", "help", "body", "caption", "content", "content_help", "tooltip", "text")
"""Fields of protos that the browser reads as markdown."""

PLAIN = {
    "code", "text", "html", "arrow_data_frame", "dataframe", "bidi_component", "exception",
    "text_input", "text_area", "selectbox", "multiselect",
}  # fmt: skip
"""Elements whose body or value is shown as it is. Labels of those that have one are looked at all the same."""


def nodes(block) -> Iterator[object]:
    """A block of AppTest's tree and everything in it."""
    yield block
    for child in getattr(block, "children", {}).values():
        yield from nodes(child)


def markdown_of(app: AppTest) -> Iterator[tuple[str, str]]:
    """(where, text) of everything that is read as markdown."""
    for node in nodes(app._tree):
        proto = getattr(node, "proto", None)
        if proto is None or not hasattr(proto, "DESCRIPTOR"):
            continue
        yield from _texts(proto, str(getattr(node, "type", "")), 0)


def _texts(proto, kind: str, depth: int) -> Iterator[tuple[str, str]]:
    for field, value in proto.ListFields():
        if field.type == field.TYPE_STRING and field.name in MARKDOWN_FIELDS:
            if kind in PLAIN and field.name not in ("label", "help"):
                continue
            for text in [value] if isinstance(value, str) else value:
                yield f"{kind} {field.name}", text
        elif field.type == field.TYPE_MESSAGE and depth < 4:
            messages = [value] if hasattr(value, "ListFields") else value
            if hasattr(messages, "values"):
                continue
            for message in messages:
                if hasattr(message, "ListFields"):
                    yield from _texts(message, kind, depth + 1)


def strings(value: object) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def specs(app: AppTest) -> Iterator[object]:
    """What the charts are given."""
    for element in app.get("bidi_component"):
        if element.proto.component_name.endswith(".figure"):
            data = json.loads(element.proto.mixed.json or element.proto.json)
            yield json.loads(data["spec"])


def check(app: AppTest, typed: Iterable[str]) -> None:
    """Look at everything that a page has sent after texts were typed, or read from files."""
    typed = [text for text in typed if len(text) > 3 and SPECIAL.search(text)]
    assert not app.exception, [(error.message, error.stack_trace[-3:]) for error in app.exception]
    for element in app.get("html"):
        body = element.proto.body
        assert strange_markup(body) == [], body[:2000]
        assert "Traceback" not in body and "site-packages" not in body
    for where, text in markdown_of(app):
        assert not [one for one in typed if one in text], (where, text[:300])
    tagged = [text for text in typed if "<" in text or "$" in text]
    for spec in specs(app):
        for text in strings(spec):
            assert not [one for one in tagged if one in text], text[:300]


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """Where the server of this module keeps its runs, and their ids."""

    home: Path
    runs: list[str]


@pytest.fixture(scope="module")
def server(tiny_folder, statistics_text, tmp_path_factory) -> Iterator[Server]:
    """A server with the tiny model, and runs with hostile names."""
    home = tmp_path_factory.mktemp("hostile-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(home))
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", home / "recorded")
        for place in WORKER_STARTERS:
            patch.setattr(place, lambda store, device: None)
        # Nobody on the net is asked for a model whose name was made up.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        store = RunStore()
        names = ["<img src=x> :red[z]", "[x](//e) **b** $y$"]  # short enough to be in charts unshortened
        ids = store.submit(
            [
                tiny_runs.prepared(tiny_folder, statistics_text, method=method, n_edits=4, name=name)
                for name, method in zip(names, ("ENCORE", "ENCORE"), strict=True)
            ]
        )
        tiny_runs.worker(store).serve()
        for run_id in ids:
            store.tag(run_id, ["<b>tag</b>", "=1+1", ":red[t]"])
        models.clear()
        yield Server(home, ids)
        models.clear()


@pytest.fixture(autouse=True)
def at_home(server, monkeypatch, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(server.home))


class Bystander:
    """Another visitor with an edit; `unharmed` says whether anything of theirs has changed."""

    PAIRS = tuple((fact.text, fact.target_new) for fact in tiny_runs.FACTS)

    def __init__(self) -> None:
        self.visitor = opened("edit").session_state["visitor"]
        self.visitor.start_over(settings_of(self.visitor.lm, "ENCORE", tiny_runs.SETTINGS), 0)
        self.visitor.begin(tiny_runs.FACTS[:2], 1, "skip")
        self.visitor.work(lambda words, share: None)
        assert self.visitor.session.n_edits
        self.weights = tiny_models.Snapshot.of(self.visitor.lm)
        self.seen = self._look()

    def _look(self) -> tuple[int, list[float]]:
        from encore_core.measures.answers import answer_probabilities

        with self.visitor.session.edited() as lm:
            return self.visitor.session.n_edits, [answer.probability for answer in answer_probabilities(lm, self.PAIRS)]

    def unharmed(self) -> bool:
        return self._look() == self.seen and self.weights.holds(self.visitor.lm)


@pytest.fixture(scope="module")
def bystander(server) -> Bystander:
    return Bystander()


# -- every page --------------------------------------------------------------------------------------------------------


def test_there_are_enough_of_them():
    assert len(set(TEXTS)) >= 200 and len(FILES) >= 50


ROUNDS = 2


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_fields_of_every_page(page, bystander):
    """Every text field of every page, twice, each time with other texts. What the pages ask in lists of their own
    cannot be anything else."""
    app = opened(page)
    check(app, ())
    texts = itertools.islice(itertools.cycle(TEXTS), 37 * PAGES.index(page), None)
    for _ in range(ROUNDS):
        fields = [*app.text_input, *app.text_area]
        typed = []
        for field in fields:
            if not field.disabled:
                text = next(texts)[: field.proto.max_chars or None]
                typed.append(text)
                field.set_value(text)
        check(app.run(), typed)
        for button in app.button:
            if button.label in ("Save", "Measure", "Search", "Try", "Go") and not button.disabled:
                check(button.click().run(), typed)
    assert bystander.unharmed()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_addresses_of_every_page(page):
    """Every name that pages read from their address: with several texts each, and with what looks like a number."""
    texts = itertools.islice(itertools.cycle(TEXTS), 53 * PAGES.index(page), None)
    query = {name: [next(texts) for _ in range(3)] for name in QUERY}
    check(opened(page, **query), [text for several in query.values() for text in several])
    for number in ("9" * 5000, "²"):
        check(opened(page, **dict.fromkeys(QUERY, number)), [])


def test_runs_with_hostile_names_on_every_page_that_shows_runs(server):
    names = [RunStore().get(run).name for run in server.runs]
    typed = [*names, "<b>tag</b>", ":red[t]", ":red[z]", "[x](//e)", "**b**", "<img src=x>", "$y$"]
    for page in ("runs", "compare", "norms", "contributions", "overfitting", "downstream", "run", "start"):
        app = opened(page, run=server.runs[0] if page == "runs" else server.runs)
        check(app, typed)
        told = "".join(element.proto.body for element in app.get("html"))
        assert page in ("start", "run", "downstream", "overfitting") or html.escape(names[0]) in told, page


# -- one visitor who tries everything ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(server) -> AppTest:
    """One visitor for all of it: each attack has to leave the page usable for the next."""
    return opened("edit")


@pytest.mark.slow
def test_every_text_as_a_fact(desk, bystander):
    """Each of the texts at least once in the form, in turn as subject, prompt, answers, prompt of one's own."""
    desk.segmented_control(key="source").set_value("Your own").run()
    desk.session_state["more_prompts"] = True
    desk.run()
    for start in range(0, len(TEXTS), 6):
        six = [TEXTS[(start + i) % len(TEXTS)] for i in range(6)]
        names = ["subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours"]
        turn = (start // 6) % 6
        names = names[turn:] + names[:turn]
        values = dict(zip(names, six, strict=True))
        values["prompt"] = f"{{}} {values['prompt']}"
        values["neighbours"] = f"{values['neighbours']} => so"
        for name, text in values.items():
            (desk.text_input if name not in ("paraphrases", "neighbours") else desk.text_area)(key=name).set_value(text)
        for field in desk.text_input:
            if field.key == "free_prompt":
                field.set_value(six[0])
        check(desk.run(), six)
    assert bystander.unharmed()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_file_as_an_upload(desk, bystander, name):
    if desk.segmented_control(key="source").value != "Table":
        desk.segmented_control(key="source").set_value("Table").run()
    desk.file_uploader(key="upload").set_value((name, FILES[name], "text/plain"))
    check(desk.run(), [name, *TEXTS] if name.startswith("all-texts") else [name, "<script>", "<img src", "$x$", "<b>"])
    assert desk.session_state["visitor"].session.n_edits == 0


READ_AS = ["<script>", "<img src", "javascript:alert", ":red[x]"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EDIT_FILES)
def test_every_edit_file_that_is_none(desk, bystander, name):
    unfolded(desk, "edits_file")
    [field] = [field for field in desk.file_uploader if field.key.startswith("edits_upload")]
    field.set_value((f"{name}.safetensors", EDIT_FILES[name], "application/octet-stream"))
    check(desk.run(), READ_AS)
    check(desk.button(key="edits_load").click().run(), READ_AS)
    assert desk.session_state["visitor"].session.n_edits == 0
    assert desk.session_state["visitor"].message.kind == "error"


def test_every_file_is_harmless_to_the_run_page(server):
    """Its reader is that of the Edit page; here the page around it."""
    app = opened("run")
    app.selectbox(key="run_source").set_value("upload").run()
    names = list(FILES)
    for name in names[::4]:
        app.file_uploader(key="run_upload").set_value((name, FILES[name], "text/plain"))
        check(app.run(), [name, *READ_AS])


def test_every_lesson_that_is_none(server):
    app = opened("lessons")
    for name, content in LESSONS.items():
        app.file_uploader(key="lesson_upload").set_value((f"{name}.toml", content, "text/plain"))
        check(app.run(), READ_AS)


# -- what is handed out ------------------------------------------------------------------------------------------------


def test_tables_for_spreadsheets_hold_no_formula():
    rows = list(csv.reader(io.StringIO(neutral_csv(["text"], [[text] for text in TEXTS]).decode("utf-8-sig"))))
    assert len(rows) == 1 + len(TEXTS)
    assert not [cell for [cell] in rows[1:] if cell.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r")]


def test_labels_show_what_they_are_given():
    """Every letter is there, in order, and nothing that markdown would take for more than a letter."""
    for text in TEXTS:
        shown = widgets.plain(text)
        assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown).replace("\u2060", "") == text.replace("\u2060", "")
        assert not re.search(r"(?<!\\)(?:\\\\)*[*_`<>\[\]$~#|]", shown)
        assert "://" not in shown and not re.search(r":[a-z]+:", shown)
