"""Links: what stands in an address, in a lesson plan or behind a page's name, and what a page makes of it."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.lesson_plans import check_view
from fuzzing.recipes import RecipeTarget
from fuzzing.target import Broken, attempt

NAMES = (
    "run", "at", "scale", "layers", "layer", "facts", "value", "show", "before", "after", "text", "fact", "metric",
    "step", "table", "dataset", "source", "subject", "prompt", "target_new", "method", "model", "n", "tour", "present",
    "predict", "lesson", "new", "true", "paraphrases", "neighbours", "try", "edits", "batch", "every", "seed", "order",
    "known", "give", "embed", "embed_options", "x<y>", "", "order", "place", "group",
)  # fmt: skip
VALUES = (
    "0", "1", "4", "8", "10", "-1", "99999999", "²", "١", "1e3", "1.5", "ratio", "log", "edited", "some", "all", "last",
    "sample", "newest", "recorded-memit-10", "recorded-encore-10", "recorded", "again", "breaks", "MEMIT", "ENCORE",
    "MEMIT,ENCORE", "one-edit", "france", "true", "nan", "tiny-gpt2", "..", "/etc/passwd", "a\x00b", "\ud800", "%ff",
)  # fmt: skip


class LinksTarget(RecipeTarget):
    """A link is a view of a page, or is refused in one line; the first look of a page shows nothing of its address.

    A recipe has "link", as it stands in a lesson plan; "path" and "query", as a browser sends them; and "view", values
    that a page puts into its address.
    """

    name = "links"
    about = "links of lessons, addresses and the first look"
    modules = (
        "dashboard.talk.lessons",
        "dashboard.links",
        "dashboard.browser.first_paint.first_look",
        "dashboard.talk.lesson_files",
    )
    keys = ("link", "path", "query", "view", *NAMES)
    words = (
        *VALUES,
        *NAMES,
        "?",
        "&",
        "=",
        "#",
        "http://127.0.0.1:8501/",
        "//x/edit",
        "http://[",
        "edit?",
        "learn?step=",
    )

    def setup(self, folder: Path) -> None:
        from dashboard import links, page_list
        from dashboard.browser.first_paint import first_look
        from dashboard.talk import lesson_files, lessons

        self._lessons, self._files, self._links = lessons, lesson_files, links
        self._look, self._pages = first_look, page_list
        self._looks = {self._look.markup(f"/{name}") for name in page_list.ENTRIES} | {""}

    def recipes(self) -> list[Any]:
        links = [step.view for lesson in self._lessons.bundled().values() for step in lesson.steps]
        told = [self._files.link_of(view) for view in links]
        return [
            *({"link": link, "path": link.partition("?")[0], "query": link.partition("?")[2]} for link in told[:8]),
            {
                "link": "http://127.0.0.1:8501/edit?subject=Fran%C3%A7ais&prompt=%7B%7D+is",
                "path": "/edit",
                "query": "a=1;b",
            },
            {"link": "javascript:alert(1)", "path": "//evil.example/edit", "query": "embed=true"},
            {"link": "edit?" + "&".join(f"a{n}=1" for n in range(80)), "path": "/", "query": "present=1"},
            {"link": "http://[::1", "path": "/../edit/", "query": "x=%00%ff"},
            {"link": "", "view": {"run": ["a", "b"], "at": "100", "text": ""}},
        ]

    def try_recipe(self, recipe: Any) -> str:
        recipe = recipe if isinstance(recipe, dict) else {}
        link, path, query = (str(recipe.get(name, "")) for name in ("link", "path", "query"))
        view = attempt(lambda: self._lessons.view_of(link))
        if not isinstance(view, InputError):
            check_view(self._lessons, self._files, view)
        # What a browser sends is bytes; the server reads them as latin-1.
        sent = query.encode("utf-8", "replace").decode("latin-1")
        look = self._look.markup(path, sent)
        if look not in self._looks:
            raise Broken("a first look depends on more of an address than its page", look[:300])
        self._check_view(recipe.get("view"))
        return "refused" if isinstance(view, InputError) else "taken"

    def _check_view(self, view: Any) -> None:
        """What a page puts into its address comes back as it was, without what is empty."""
        if not isinstance(view, dict):
            return
        view = {
            name: value
            for name, value in view.items()
            if isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
        }
        view = {name: value for name, value in view.items() if encodable([name, value])}
        link = "edit?" + urlencode(self._links._lists(view), doseq=True)
        if len(view) > 50 or sum(len(value) for value in view.values() if isinstance(value, list)) > 50:
            return
        expected = {
            name: tuple(found)
            for name, value in view.items()
            if (found := [one for one in ([value] if isinstance(value, str) else value) if one]) and name
            if not name.startswith("embed")
        }
        read = {name: values for name, values in self._lessons.view_of(link).query.items() if name}
        if read != expected:
            raise Broken("a view comes back from its address as another one", f"{expected} {read}")


class AddressesTarget(RecipeTarget):
    """A page of the app that is opened by an address shows no error of ours, and shows texts as texts.

    A recipe has "page" and "query", values by name.
    """

    name = "addresses"
    about = "pages of the app opened by an address"
    modules = (
        "dashboard.links",
        "dashboard.elements.layer_choice",
        "dashboard.elements.run_picker",
        "dashboard.parts.overfitting",
    )
    keys = NAMES
    words = VALUES
    seconds = 20.0  # a page is drawn
    allowed = ("pickle.find_class",)  # of Streamlit's cache, in which its own pickles are

    def setup(self, folder: Path) -> None:
        import tiny_models
        import tiny_pages
        import tiny_runs

        model = tiny_runs.save_model(tiny_models.gpt2(), folder / "tiny-gpt2")
        text = tiny_models.statistics_text(folder)
        home = folder / "made"
        home.mkdir()
        recorded = tiny_pages.recorded_folder(model, text, home)
        os.environ["ENCORE_MODEL"] = str(model)
        import test_hostile_inputs

        import encore_core.runs.recorded

        encore_core.runs.recorded.RECORDED = recorded
        for place in tiny_pages.WORKER_STARTERS:
            module, _, name = place.rpartition(".")
            __import__(module)
            setattr(sys.modules[module], name, lambda store, device: None)
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
        self._opened, self._check, self._all = tiny_pages.app_at, test_hostile_inputs.check, test_hostile_inputs.PAGES

    def recipes(self) -> list[Any]:
        runs = ["recorded-memit-10", "recorded-encore-10"]
        return [
            {
                "page": "compare",
                "query": {"run": runs, "at": ["4"], "scale": ["log"], "layers": ["some"], "layer": ["1"]},
            },
            {"page": "overfitting", "query": {"run": runs, "fact": ["0"]}},
            {"page": "learn", "query": {"run": runs, "step": ["again"], "at": ["8"]}},
            {"page": "edit", "query": {"subject": ["France"], "prompt": ["{} is"], "new": ["x"], "method": ["MEMIT"]}},
            {"page": "norms", "query": {"run": runs[:1], "layers": ["all"], "at": ["10"]}},
            {"page": "contributions", "query": {"run": runs, "value": ["share"], "text": ["Peru is"]}},
            {"page": "downstream", "query": {"run": runs, "at": ["4"]}},
            {"page": "paper", "query": {"table": ["1"], "dataset": ["x"], "run": runs}},
            {"page": "runs", "query": {"run": runs[:1]}},
            {"page": "run", "query": {"method": ["MEMIT,ENCORE"], "n": ["10"]}},
            {"page": "models", "query": {"model": ["nowhere/nothing"]}},
            {"page": "lessons", "query": {"lesson": ["one-edit"], "step": ["2"]}},
            {"page": "start", "query": {"tour": ["2"], "present": ["1"]}},
        ]

    def changed(self, recipe: Any, rng: random.Random) -> Any:
        if rng.random() < 0.1:
            return {**recipe, "page": rng.choice(self._all)} if isinstance(recipe, dict) else {"page": "edit"}
        query = recipe.get("query") if isinstance(recipe, dict) else None
        if not isinstance(query, dict):
            return {"page": rng.choice(self._all), "query": {}}
        recipe["query"] = mutate.tree(query, rng, NAMES, VALUES)
        return recipe

    def try_recipe(self, recipe: Any) -> str:
        if not isinstance(recipe, dict) or recipe.get("page") not in self._all:
            return "refused"
        query = recipe.get("query")
        asked = {}
        for name, values in query.items() if isinstance(query, dict) else ():
            values = values if isinstance(values, list) else [values]
            texts = [str(value)[:2_000] for value in values[:20]]
            if encodable([name, texts]) and not name.startswith("embed"):
                asked[name] = texts
        app = self._opened(recipe["page"], **asked).run()
        try:
            self._check(app, [text for texts in asked.values() for text in texts])
        except AssertionError as error:
            raise Broken(f"the page {recipe['page']} shows what it must not", error) from error
        return "taken"


def encodable(value: Any) -> bool:
    """Whether all texts of a value can be sent."""
    if isinstance(value, list):
        return all(map(encodable, value))
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


TARGETS = (LinksTarget(), AddressesTarget())
