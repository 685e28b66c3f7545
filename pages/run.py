"""Start and watch 100 to 10,000 sequential edits: a plan, what it will cost, and the runs as they go on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import access, costs, limits, links, live, page_list, state, widgets
from dashboard.plan_fields import used_settings, usual
from dashboard.runs_view import MAIN_METHODS, MOST_COMPARED, SUBSETS, duration, short_model, size
from dashboard.state import Message, Visitor, remembered
from encore_core.covariance import BUNDLED
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, Fact, parse_facts, read_facts
from encore_core.methods import METHODS, settings_for
from encore_core.models import CATALOGUE, DTYPES, ModelShape, describe_model
from encore_core.placement import DEVICE_NAMES
from encore_core.runs import MeasurePlan, PreparedRun, RunPlan, RunStore, prepare, start_worker
from encore_core.storage import named_path

KEEP: dict[str, Any] = {"persist_state": "session"}
SOURCES = {"bundled": "Bundled", "upload": "Upload", "paste": "Paste", "file": "File"}
ORDERS = {"file": "as in the file", "shuffled": "shuffled"}
KNOWN = {"edit": "edit them too", "skip": "skip them"}
ABOUT = {
    "generate": "Whether greedy decoding says the new answer; the costliest part of the scores.",
    "perplexity": "On a fixed text.",
    "generation_entropy": "Of sampled continuations.",
    "contributions": "What each sublayer adds to the residual stream.",
}
SHOWN_NOTICES = 4
BATCH_SIZE = 20
# Name in the address → field of the plan, and its usual value.
NUMBERS = {
    "edits": ("run_n", None), "batch": ("run_batch", BATCH_SIZE), "every": ("run_every", None), "seed": ("run_seed", 0),
}  # fmt: skip
# Name in the address → field of the plan, and what can be chosen, the usual one first.
CHOICES = {"order": ("run_order", ORDERS), "known": ("run_known", KNOWN)}

MARK = " \0 "  # stands for the method in a notice; facts cannot hold it

Facts = tuple[list[Fact], str, tuple[object, ...]]  # facts, what the plan calls them, what tells them from others


# -- the address -------------------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Fill the plan with what a link asks for, and watch the run that it names; nonsense is left out."""
    first = {name: values[0] for name, values in asked.items() if values}
    methods = [method for method in dict.fromkeys(asked.get("method", ())) if method in METHODS]
    if methods:
        st.session_state["run_methods"] = methods[:MOST_COMPARED]
    for name, (key, _) in NUMBERS.items():
        if first.get(name, "").isdecimal() and len(first[name]) < 8:
            st.session_state[key] = int(first[name])
    for name, (key, known) in CHOICES.items():
        if first.get(name) in known:
            st.session_state[key] = first[name]
    if "run" in first:
        st.session_state["watched"] = first["run"]
    else:
        st.session_state["new_runs"] = True


def view() -> dict[str, str | list[str]]:
    """What a link says of the page: the plan where it is not the usual one, and the run that is watched."""
    shown = st.session_state
    said: dict[str, str | list[str]] = {}
    if shown["run_methods"] != list(MAIN_METHODS):
        said["method"] = shown["run_methods"]
    for name, (key, usual_number) in NUMBERS.items():
        if shown[key] not in (None, shown["run_usual_n"] if name == "edits" else usual_number):
            said[name] = str(shown[key])
    said |= {name: shown[key] for name, (key, known) in CHOICES.items() if shown[key] != next(iter(known))}
    if shown.get("watched", live.FOLLOW) != live.FOLLOW:
        said["run"] = shown["watched"]
    return said


# -- fields ------------------------------------------------------------------------------------------------------------


def beside(error: InputError | str) -> None:
    """A problem, under the field that it is about."""
    widgets.notice(Message("error", str(error)))


def pick_model(visitor: Visitor) -> dict[str, Any] | None:
    """Model and methods with their settings. Returns fields of the plans, per method; None when something is wrong."""
    with st.container(border=True, key="card_model"):
        widgets.heading("1 · Model and methods")
        loaded = visitor.lm.name
        remembered("run_model", loaded)
        names = list(dict.fromkeys([loaded, *CATALOGUE]))
        name = (
            st.selectbox(
                "Model",
                names,
                key="run_model",
                accept_new_options=True,
                **KEEP,
                format_func=lambda n: f"{n} · loaded" if n == loaded else n,
                help="A name from the list, or type a folder that holds a transformers model, or a hub id.",
            )
            or ""
        ).strip()
        remembered("run_methods", list(MAIN_METHODS))
        st.multiselect(
            "Methods, one run each",
            [*MAIN_METHODS, *(m for m in METHODS if m not in MAIN_METHODS)],
            key="run_methods",
            max_selections=MOST_COMPARED,
            placeholder="Pick one to four",
            **KEEP,
            help="All of them get the same facts in the same order, with the same seed.",
        )
        methods = st.session_state["run_methods"]
        if not methods:
            beside("No method is picked; pick one to four.")
        left, right = st.columns(2)
        remembered("run_device", "auto" if name != loaded else str(visitor.lm.device))
        remembered("run_dtype", "auto" if name != loaded else str(visitor.lm.dtype).removeprefix("torch."))
        devices = list(dict.fromkeys(["auto", *DEVICE_NAMES, str(visitor.lm.device)]))
        device = left.selectbox("Device", devices, key="run_device", accept_new_options=True, **KEEP)
        dtype = right.selectbox("Number format", ["auto", *DTYPES], key="run_dtype", **KEEP)
        shape = _shape(visitor, name, None if dtype == "auto" else dtype) if name else None
        if not name:
            beside("Model is blank: pick a name, or type a folder or a hub id.")
        with st.expander("Settings of the methods", key="run_settings", on_change="rerun") as opened:
            # Fields are drawn whether it is open or not: what was typed in them counts, and its problems show.
            overrides, right_all = _settings(methods, shape, opened.open)
        statistics = st.session_state.get("run_statistics", "").strip()
    if statistics not in ("", BUNDLED):
        try:
            access.check_files("A text file of this machine")
        except InputError as error:
            beside(error)
            return None
    if shape is None or not methods or not right_all:
        return None
    chosen = {"device": None if device == "auto" else device, "dtype": None if dtype == "auto" else dtype}
    return {"model": name, "methods": overrides, "statistics_text": statistics or None, **chosen}


def _shape(visitor: Visitor, name: str, dtype: str | None) -> ModelShape | None:
    try:
        access.check_model(name)
        return _described(name, dtype)
    except InputError as error:
        beside(error)
        return None


@st.cache_resource(show_spinner=False, max_entries=20, ttl=60)
def _described(name: str, dtype: str | None) -> ModelShape:
    return describe_model(name, dtype)


def _settings(methods: Sequence[str], shape: ModelShape | None, is_open: bool) -> tuple[dict[str, dict], bool]:
    """Fields for what replaces a method's settings; an empty field stands for the model's own value, shown in it."""
    overrides: dict[str, dict[str, Any]] = {method: {} for method in methods}
    if shape is None or not methods:
        if is_open:
            st.caption("Appears when a model and a method are picked.")
        return overrides, True
    well = True
    known = vars(shape)
    for method, tab in zip(methods, st.tabs(list(methods)), strict=True):
        with tab:
            table = settings_for(method, **known)
            columns = st.columns(2)
            for place, setting in enumerate(used_settings(method)):
                value = columns[place % 2].text_input(
                    setting.label,
                    key=f"run {method} {setting.name}",
                    help=setting.about,
                    placeholder=usual(table, setting.name),
                    **KEEP,
                )
                if (value or "").strip():
                    overrides[method][setting.name] = value.strip()
            key = f"run {method} sequential"
            remembered(key, table.sequential)
            if st.toggle("Later batches preserve earlier edits", key=key, **KEEP) != table.sequential:
                overrides[method]["sequential"] = not table.sequential
            try:
                settings_for(method, **known, overrides=overrides[method])
            except InputError as error:
                well = False
                beside(error)
    remembered("run_statistics", "")
    st.text_input(
        "Text for C0, all methods",
        key="run_statistics",
        **KEEP,
        placeholder="what the Models page has gathered, else the bundled sample",
        help='A text file on this machine, from which C0 is taken, or "bundled".',
    )
    return overrides, well


def pick_facts() -> dict[str, Any] | None:
    """Facts, how many, in which order. Returns fields of the plans, the facts among them; None on a problem."""
    with st.container(border=True, key="card_run_facts"):
        widgets.heading("2 · Facts")
        remembered("run_source", "bundled")
        st.segmented_control(
            "Where facts come from",
            list(SOURCES),
            key="run_source",
            required=True,
            width="stretch",
            format_func=SOURCES.get,
            label_visibility="collapsed",
            **KEEP,
        )
        try:
            found = _facts(st.session_state["run_source"])
        except InputError as error:
            beside(error)
            found = None
        if found is not None:
            widgets.notice(
                Message("success", f"{len(found[0]):,} facts. First: {found[0][0].text} {found[0][0].target_new}")
            )
        left, right = st.columns(2)
        # Until somebody types another number, it follows the facts.
        usual = min(200, len(found[0])) if found else 200
        if remembered("run_n", usual) == st.session_state.get("run_usual_n"):
            st.session_state["run_n"] = usual
        st.session_state["run_usual_n"] = usual
        remembered("run_batch", BATCH_SIZE)
        n_edits = left.number_input(
            "Edits",
            key="run_n",
            step=50,
            **KEEP,
            value=None,
            placeholder="all there are",
            help="Facts to edit, one after the other batch; empty for all there are.",
        )
        batch = right.number_input(
            "Facts a batch",
            key="run_batch",
            step=10,
            value=None,
            placeholder=str(BATCH_SIZE),
            **KEEP,
            help="Facts of a batch are solved for together.",
        )
        remembered("run_every", None)
        remembered("run_seed", 0)
        every = left.number_input(
            "Checkpoint every",
            key="run_every",
            step=50,
            value=None,
            **KEEP,
            placeholder="tenth",
            help="So many edits; a tenth of the run when empty. Norms and scores are measured then, and the state is "
            "saved; at 0 and at the end they always are.",
        )
        seed = right.number_input(
            "Seed",
            key="run_seed",
            step=1,
            value=None,
            placeholder="0",
            **KEEP,
            help="Of the shuffling, of sampled prefixes, and of what is drawn for measuring.",
        )
        remembered("run_order", "file")
        remembered("run_known", "edit")
        order = left.selectbox("Order", list(ORDERS), key="run_order", format_func=ORDERS.get, **KEEP)
        skip = right.selectbox(
            "Known facts",
            list(KNOWN),
            key="run_known",
            format_func=KNOWN.get,
            help="What the model says already. Edited too, all methods see the same facts.",
            **KEEP,
        )
        remembered("run_name", "")
        name = st.text_input("Name (optional)", key="run_name", placeholder="made of method and size", **KEEP)
        fields = {
            "n_edits": n_edits,
            "batch_size": BATCH_SIZE if batch is None else batch,
            "checkpoint_every": every,
            "seed": 0 if seed is None else seed,
            "order": order,
            "known": skip,
            "name": name,
        }
        try:
            RunPlan(**fields)
            if found is not None and n_edits is not None and n_edits > len(found[0]):
                raise InputError(
                    f"Edits {n_edits:,} are more than the {len(found[0]):,} facts; give a number up to "
                    f"{len(found[0]):,}, or more facts."
                )
        except InputError as error:
            beside(error)
            return None
    return None if found is None else fields | {"found": found}


def _facts(source: str) -> Facts | None:
    """The facts of a source; None while there is nothing to read yet.

    Raises:
        InputError: naming the row, the field and the value.
    """
    if source == "bundled":
        return list(state.bundled_facts()), "bundled", ("bundled",)
    if source == "upload":
        upload = st.file_uploader(
            "CSV, JSON or JSONL",
            type=["csv", "tsv", "txt", "json", "jsonl"],
            key="run_upload",
            max_upload_size=MAX_BYTES // 1_000_000,
        )
        if upload is None:
            st.caption(
                "CounterFact, EasyEdit and zsRE files are read as they are, and CSV with the columns subject, "
                "prompt, target_new; optional target_true, paraphrases, neighbours."
            )
            return None
        limits.check_upload("The upload", upload.size)
        upload.seek(0)
        data = upload.read()
        return _parsed(data, upload.name), upload.name, ("upload", hashlib.sha256(data).hexdigest())
    if source == "paste":
        text = st.text_area(
            "Facts",
            key="run_pasted",
            height=150,
            **KEEP,
            placeholder="subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris",
        )
        if not (text or "").strip():
            st.caption("A line of column names, then a fact a line; or JSON.")
            return None
        limits.check_upload("The pasted text", len(text))
        return (
            _parsed(text.encode("utf-8", "surrogatepass"), "pasted"),
            "pasted",
            ("paste", hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()),
        )
    path = st.text_input("File on this machine", key="run_path", placeholder="a path, e.g. facts.jsonl", **KEEP) or ""
    if not path.strip():
        st.caption("For files that are too large to upload.")
        return None
    access.check_files("A file of this machine")
    file = named_path(path.strip())
    try:
        stamp = (str(file), file.stat().st_mtime_ns, file.stat().st_size)
    except (OSError, ValueError):
        stamp = (str(file), 0, 0)  # reading it will say what is wrong
    return _read(*stamp), str(file), stamp


@st.cache_resource(show_spinner="Reading the facts …", max_entries=4)
def _read(path: str, changed: int, n_bytes: int) -> list[Fact]:
    return read_facts(path)


@st.cache_resource(show_spinner=False, max_entries=8)
def _parsed(data: bytes, name: str) -> list[Fact]:
    if name == "pasted":
        return parse_facts(data.decode("utf-8", "surrogatepass"), "the pasted facts")
    import io

    stream = io.BytesIO(data)
    stream.name = name
    return read_facts(stream)


def pick_measures() -> MeasurePlan | None:
    """What is measured at checkpoints; None on a problem."""
    with st.container(border=True, key="card_measure"):
        widgets.heading("3 · Measured at checkpoints", "norms of all layers always are")
        usually = MeasurePlan()
        remembered("run_subsets", list(usually.subsets))
        subsets = st.multiselect(
            "Scores of", list(SUBSETS), key="run_subsets", format_func=SUBSETS.get, **KEEP, placeholder="no scores"
        )
        left, right = st.columns(2)
        values: dict[str, Any] = {"subsets": tuple(subsets)}
        for place, (name, words) in enumerate(
            (("sample_facts", "Facts in the sample"), ("batch_facts", "Facts of a batch"))
        ):
            remembered(f"run_{name}", getattr(usually, name))
            value = (left, right)[place].number_input(words, key=f"run_{name}", step=10, value=None, **KEEP)
            values[name] = getattr(usually, name) if value is None else value
        for place, (name, words) in enumerate(
            (
                ("generate", "Generation"),
                ("perplexity", "Perplexity"),
                ("generation_entropy", "Entropy"),
                ("contributions", "Residuals"),
            )
        ):
            remembered(f"run_{name}", getattr(usually, name))
            values[name] = (left, right)[place % 2].toggle(words, key=f"run_{name}", help=ABOUT[name], **KEEP)
        remembered("run_cap", 25.0)
        cap = left.number_input(
            "Cap, %",
            key="run_cap",
            step=5.0,
            value=None,
            format="%g",
            **KEEP,
            placeholder="no cap",
            help="Measuring between the first and the last checkpoint stops short of this share of "
            "the time spent on editing; what is left out is told. Empty for no cap.",
        )
        values["share_cap"] = None if cap is None else cap / 100
        remembered("run_trajectory_facts", usually.trajectory_facts)
        kept = right.number_input(
            "Trajectories",
            key="run_trajectory_facts",
            step=50,
            value=None,
            placeholder=str(usually.trajectory_facts),
            help="Of so many facts every step of the target optimisation is kept.",
            **KEEP,
        )
        values["trajectory_facts"] = usually.trajectory_facts if kept is None else kept
        remembered("run_downstream", "")
        folder = st.text_input(
            "Folder with the downstream tasks (optional)",
            key="run_downstream",
            help="With sst2.jsonl and the others in it; or “hub”, which fetches them once.",
            **KEEP,
        )
        values["downstream"] = folder.strip() or None
        if values["downstream"]:
            remembered("run_downstream_tests", usually.downstream_tests)
            tests = st.number_input("Tests a task", key="run_downstream_tests", step=10, value=None, **KEEP)
            values["downstream_tests"] = usually.downstream_tests if tests is None else tests
        try:
            if values["downstream"] not in (None, "hub"):
                access.check_files("A folder of this machine")
            return MeasurePlan(**values)
        except InputError as error:
            beside(error)
            return None


# -- from fields to runs -----------------------------------------------------------------------------------------------


def prepared(model: dict[str, Any], facts: dict[str, Any], measure: MeasurePlan) -> list[PreparedRun]:
    """The runs that Start would queue; made anew only when a field has changed.

    Raises:
        InputError: whatever does not fit together.
    """
    fields = dict(facts)
    found, called, token = fields.pop("found")
    shared = {key: model[key] for key in ("model", "device", "dtype", "statistics_text")}
    plans = [
        RunPlan(method=method, facts=called, overrides=overrides, measure=measure, **fields, **shared)
        for method, overrides in model["methods"].items()
    ]
    key = (tuple(str(plan.to_json()) for plan in plans), token)
    kept = st.session_state.get("run_prepared")
    if kept is None or kept[0] != key:
        st.session_state["run_prepared"] = kept = (key, [prepare(plan, found) for plan in plans])
    return kept[1]


def notices(runs: Sequence[PreparedRun]) -> None:
    """What should be known before the start: duplicates, facts put off, untested settings."""
    # What is said of every method is said once, with their names.
    of_methods: dict[str, list[str]] = {}
    for run in runs:
        for line in run.notices:
            of_methods.setdefault(line.replace(f" {run.plan.method} ", MARK, 1), []).append(run.plan.method)
    lines = [line.replace(MARK, f" {', '.join(methods)} ", 1) for line, methods in of_methods.items()]
    if not lines:
        return
    widgets.notice(Message("warning", "\n".join(lines[:SHOWN_NOTICES])))
    if len(lines) > SHOWN_NOTICES:
        with st.expander(f"{len(lines) - SHOWN_NOTICES} more notices", key="more_notices"):
            st.text("\n".join(lines[SHOWN_NOTICES:]))


def cost(visitor: Visitor, runs: Sequence[PreparedRun], store: RunStore) -> None:
    """What the runs will take: known at once when it was found out before, and by a button otherwise."""
    if not all(costs.fits(visitor.lm, run) for run in runs):
        widgets.notice(
            Message(
                "info",
                f"Load {short_model(runs[0].plan.model)} in the sidebar, with this device and "
                "number format, to have the cost estimated before the start.",
            )
        )
        return
    try:
        found = costs.known_cost(visitor.lm, runs)
        if found is None:
            asked = st.button("Estimate the cost", icon=":material/timer:", key="estimate")
            place = st.empty()
            place.caption("Edits and scores a few facts with each method for the watch; seconds a method, once.")
            if not asked:
                return
            found = costs.measured_cost(
                visitor.lm, runs, lambda what, share: place.progress(min(1.0, max(0.0, share)), text=f"{what} …")
            )
            place.empty()
    except InputError as error:
        beside(error)
        return
    rows = [
        (
            run.plan.method,
            duration(one.seconds),
            duration(one.editing_seconds),
            duration(one.measuring_seconds) + (", capped" if one.capped else ""),
            f"{one.n_checkpoints}",
            size(one.memory_bytes),
            size(one.disk_bytes),
        )
        for run, one in zip(runs, found.each, strict=True)
    ]
    rows.append(
        (
            "together, one after the other",
            duration(found.seconds),
            "",
            "",
            "",
            size(found.memory_bytes),
            size(found.disk_bytes),
        )
    )
    columns = [
        ("Estimated cost", ""),
        ("Time", "right"),
        ("editing", "right"),
        ("measuring", "right"),
        ("checkpoints", "right"),
        ("Memory", "right"),
        ("Disk", "right"),
    ]
    widgets.table(columns, rows if len(runs) > 1 else rows[:1], "Estimated cost of the runs")
    for line in costs.shortages(found, store.folder):
        widgets.notice(Message("warning", line))


def start(store: RunStore, runs: Sequence[PreparedRun]) -> None:
    """Queue the runs, and see to it that a worker takes them."""
    try:
        access.check_runs(store, [len(run.facts) for run in runs])
        ids = store.submit(runs)
        for device in dict.fromkeys(run.plan.device for run in runs):
            start_worker(store, device)
    except InputError as error:
        st.session_state["start_message"] = Message("error", str(error))
        return
    st.session_state["watched"] = live.FOLLOW
    st.session_state["start_message"] = Message(
        "success", f"Queued: {', '.join(ids)}. They go on without this page; come back whenever you like."
    )


# -- the page ----------------------------------------------------------------------------------------------------------


def new_runs(visitor: Visitor, store: RunStore) -> None:
    """The plan, its cost, and Start."""
    with st.container(key="plan"):
        first, second, third = st.columns(3)
        with first:
            model = pick_model(visitor)
        with second:
            facts = pick_facts()
        with third:
            measure = pick_measures()
    runs: list[PreparedRun] = []
    if model is not None and facts is not None and measure is not None:
        try:
            runs = prepared(model, facts, measure)
        except InputError as error:
            beside(error)
    with st.container(border=True, key="card_start"):
        if runs:
            notices(runs)
            cost(visitor, runs, store)
        unlocked = access.ask_code()
        n_runs = len(runs)
        total = f"{sum(len(run.facts) for run in runs):,} edits"
        st.button(
            f"Start {n_runs} run{'s' * (n_runs != 1)}, {total}" if runs else "Start",
            type="primary",
            key="start",
            disabled=not (runs and unlocked),
            on_click=start,
            args=(store, runs),
        )
        if not runs:
            st.caption("Complete the plan above; what is missing or wrong is said there.")


def main() -> None:
    st.title(page_list.question("run"), anchor=False)
    visitor = state.current()
    try:
        store = RunStore()
        busy = any(not run.ended for run in store.runs())
    except InputError as error:
        widgets.notice(Message("error", str(error)))
        return
    asked = links.opened("run")
    if asked is not None:
        restore(asked)
    if "new_runs" not in st.session_state:
        st.session_state["new_runs"] = not busy
    with st.expander("New runs", icon=":material/add_circle:", key="new_runs", on_change="rerun"):
        new_runs(visitor, store)
    widgets.notice(st.session_state.pop("start_message", None))
    try:
        live.watch(store, lambda: links.write("run", view()))
    except InputError as error:
        widgets.notice(Message("error", str(error)))


main()
