"""Why stop early? What Most-Probable Early Stopping (MPES) does to the optimisation of one fact, and of many."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import chart_card, links, mpes_pairs, page_list, paper_tables, run_picker, run_reading, state, widgets
from dashboard.charts import overfitting as charts
from dashboard.charts.overfitting import Arm
from dashboard.mpes_pairs import Pair
from dashboard.runs_view import EDITING, PHASES, duration, seconds_an_edit, short_model
from dashboard.state import Message, remembered
from encore_core.editor import EditProgress
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.runs import RunInfo

log = logging.getLogger(__name__)

# Why an optimisation stopped, in words; see `encore_core.targets.Target`.
STOPPED = {
    "loss": "the loss fell below 0.05",
    "mpes": "the answer had become the most probable one everywhere",
    "steps": "no more steps were allowed",
}

WITHOUT, STOPPING = Arm("without", "without MPES", False), Arm("stopped", "with MPES", True)
KNOWN = Arm("known", "known by itself", None)
LOSS_COLUMNS = ("loss", "nll", "kl", "decay", "probability")
SOURCES = {"example": "Example", "own": "Your own"}


# -- which runs, which fact --------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]], pairs: Mapping[str, Pair], known: Mapping[str, RunInfo]) -> None:
    """Choose the pair and the fact that a link asks for. A run that is not there is said."""
    wanted = list(dict.fromkeys(asked.get("run", ())))
    missing = [run for run in wanted if run not in known]
    if missing:
        named = ", ".join(missing[:4])
        st.session_state["overfitting_missing"] = f"The link names runs that are not in this store: {named}."
    # The pair in which most of them are; of several the first.
    found = max(pairs, key=lambda key: sum(run.id in wanted for run in pairs[key].runs), default=None)
    if found is not None and any(run.id in wanted for run in pairs[found].runs):
        st.session_state["overfitting_pair"] = found
    fact = next(iter(asked.get("fact", ())), "")
    if fact.isdecimal() and len(fact) < 9:
        st.session_state["overfitting_fact"] = int(fact)


def pick_pair(pairs: Mapping[str, Pair]) -> Pair:
    """The pair as chosen; at first one of facts whose texts are here, if there is such a one."""
    first = next((key for key, pair in pairs.items() if len(pair.runs) == 2 and has_texts(pair.runs[0])), None)
    if remembered("overfitting_pair", first or next(iter(pairs))) not in pairs:  # deleted in another tab
        st.session_state["overfitting_pair"] = first or next(iter(pairs))
    st.selectbox(
        "Runs",
        list(pairs),
        key="overfitting_pair",
        format_func=lambda key: pair_label(pairs[key]),
        persist_state="session",
    )
    return pairs[st.session_state["overfitting_pair"]]


def pair_label(pair: Pair) -> str:
    """A pair's name for the list."""
    recorded = " · recorded" if all(run.recorded for run in pair.runs) else ""
    edits = " and ".join(f"{n:,}" for n in sorted({run.done for run in pair.runs}))
    texts = " · facts as texts" if has_texts(pair.runs[0]) else ""
    names = " against ".join(run.method for run in pair.runs)
    alone = "" if len(pair.runs) == 2 else " alone"
    return f"{names}{alone} · {edits} edits of {short_model(pair.runs[0].model)}{recorded}{texts} · {pair.key}"


def has_texts(run: RunInfo) -> bool:
    """Whether the texts of a run's facts are here: of runs on files that are not ours to hand on, they are not."""
    return (run_reading.store_of(run).folder_of(run.id) / "facts.jsonl").is_file()


@st.cache_resource(show_spinner=False, max_entries=8)
def _facts(folder: str, recorded: bool, run_id: str) -> tuple[Fact, ...]:
    from encore_core.runs import RunStore

    return tuple(RunStore(folder, read_only=recorded).facts(run_id))


def texts_of(run: RunInfo) -> tuple[Fact, ...]:
    """The facts of a run; empty where their texts are not here."""
    try:
        return _facts(str(run_reading.store_of(run).folder), run.recorded, run.id)
    except InputError:
        return ()


def pick_fact(ends: Mapping[int, str], facts: Sequence[Fact]) -> int:
    """The fact as chosen, by its place in the run's facts.

    Args:
        ends: place → probabilities at the last steps, of the facts of which every step was kept.
        facts: texts by place; empty where they are not here.
    """
    places = list(ends)
    if remembered("overfitting_fact", places[0]) not in places:
        widgets.notice(
            Message("info", f"Of fact {st.session_state['overfitting_fact']} the steps were not kept in these runs.")
        )
        st.session_state["overfitting_fact"] = places[0]

    def named(place: int) -> str:
        if place < len(facts):
            return f"fact {place} · {facts[place].text} … {facts[place].target_new}"
        return f"fact {place} · ends at p = {ends[place]}"

    st.selectbox(
        f"Fact · every step of {len(places)} was kept, type to search",
        places,
        key="overfitting_fact",
        format_func=named,
        persist_state="session",
    )
    return st.session_state["overfitting_fact"]


# -- one fact ----------------------------------------------------------------------------------------------------------


def arms_of(pair: Pair) -> dict[str, Arm]:
    """Run id → its arm."""
    return {run.id: STOPPING if mpes_pairs.stops_early(run) else WITHOUT for run in pair.runs}


def with_arms(frame: pd.DataFrame, arms: Mapping[str, Arm]) -> pd.DataFrame:
    """A frame of some runs, with the arm of each in a column of its own."""
    return frame.assign(arm=frame["run"].map({run: arm.key for run, arm in arms.items()}))


def fact_tiles(trajectory: pd.DataFrame, stopped: Mapping[str, str]) -> None:
    """Where each arm ended: probability, steps, and why.

    Args:
        trajectory: arm, step, probability.
        stopped: arm → why it stopped, as the engine calls it.
    """
    tiles = []
    for arm in (WITHOUT, STOPPING):
        part = trajectory[trajectory["arm"] == arm.key]
        if len(part):
            last = part.loc[part["step"].idxmax()]
            n, why = int(last["step"]), STOPPED.get(stopped.get(arm.key, ""), "")
            remark = f"p of the answer after {n} step{'s' * (n != 1)}: {why}"
            tiles.append((arm.name, f"{last['probability']:.2f}", remark, "good" if arm.mpes else "warn"))
    widgets.tiles(tiles)


@st.fragment
def one_fact_card(pair: Pair) -> None:
    """The card of one fact, and the address of the view; choosing another fact draws nothing else anew."""
    place = None
    with st.container(border=True, key="card_overfitting_one"):
        try:
            place = one_fact(pair)
        except InputError as error:
            widgets.problem(error)
    view = {"run": [run.id for run in pair.runs], "fact": "" if place is None else str(place)}
    links.write("overfitting", view)


@st.cache_resource(show_spinner=False, max_entries=20)
def _searches(key: tuple[object, ...], _pair: Pair) -> tuple[pd.DataFrame, dict[int, str]]:
    """The steps of all facts of which every run kept them, with their arms, and fact → probabilities at the last ones.

    Shared between visitors: not to be changed.
    """
    kept = with_arms(mpes_pairs.common_facts(run_reading.read("trajectories", _pair.runs), _pair), arms_of(_pair))
    if kept.empty:
        return kept, {}
    last = kept.loc[kept.groupby(["fact", "arm"], sort=False)["step"].idxmax()]
    ends: dict[int, list[str]] = {int(fact): [] for fact in kept["fact"].unique()}
    for row in last.itertuples():
        ends[int(row.fact)].append(f"{row.probability:.2f}")
    return kept, {fact: " and ".join(values) for fact, values in ends.items()}


def one_fact(pair: Pair) -> int | None:
    """One fact's search with and without MPES. Returns the fact that is shown."""
    arms = arms_of(pair)
    key = [(str(run_reading.store_of(run).folder), *run_reading.version(run)) for run in pair.runs]
    kept, ended = _searches(tuple(key), pair)
    if kept.empty:
        widgets.notice(
            Message(
                "info",
                "These runs kept no optimisation step by step. “Trajectories” on the Run page says of how many facts a "
                "run keeps it; below, one can be made for any fact.",
            )
        )
        return None
    facts = texts_of(pair.runs[0])
    place = pick_fact(ended, facts)
    if place < len(facts):
        widgets.sentence(facts[place])
    trajectory = kept[kept["fact"] == place]
    ends = run_reading.read("targets", pair.runs)
    ends = with_arms(ends[ends["fact"] == place], arms)
    fact_tiles(trajectory, dict(zip(ends["arm"], ends["stopped"], strict=True)))
    chart_card.show(
        partial(charts.steps, trajectory, list(arms.values())),
        key="overfitting steps",
        heading="The search for one fact's target, step by step",
        aside=f"fact {place}, star: the stopping point",
        alt="Probability of the new answer, loss and its terms by step with and without MPES; where they end is said "
        "above the chart.",
        frame=trajectory,
        commands=chart_card.commands_of(pair.runs),
        revision=f"{pair.key} {place}",
    )
    st.caption(
        "A step moves the hidden state at the subject's last token. Loss = −log p of the answer (mean of its tokens "
        "and of six contexts) + KL term (what else is said about the subject) + weight decay. With MPES the search "
        "ends as soon as every token of the answer is the most probable one in every context, plus a set number of "
        "steps; without, it goes on to make the answer nearly certain."
    )
    return place


# -- many facts --------------------------------------------------------------------------------------------------------


def many_facts(pair: Pair) -> None:
    """The cards about all facts of a pair: probabilities, steps, seconds, and the paper's figures."""
    arms = arms_of(pair)
    frame = mpes_pairs.common_facts(run_reading.read("targets", pair.runs), pair)
    if frame.empty:
        widgets.notice(Message("info", "No batch of facts is through in these runs yet; their targets appear here."))
        return
    frame = with_arms(frame, arms)
    groups = [(arm, frame.loc[frame["arm"] == arm.key, "probability"]) for arm in arms.values()]
    known = mpes_pairs.known_facts(pair.runs[0])
    shown = groups + ([(KNOWN, known[1])] if known else [])
    timings = run_reading.read("timings", pair.runs)
    seconds = {arms[run.id].key: mpes_pairs.seconds_by_phase(timings, run.id) for run in pair.runs}
    with st.container(border=True, key="card_overfitting_many"):
        everything = pd.concat([values.rename("probability").to_frame().assign(group=a.name) for a, values in shown])
        chart_card.show(
            partial(charts.distributions, shown),
            key="overfitting probabilities",
            heading="How sure the model is made of edited facts",
            aside="p of the answer, diamond: the mean",
            alt="Distributions of the probability of edited facts with and without MPES and of facts that the model "
            "knows by itself; their means are in the table below.",
            frame=everything[["group", "probability"]],
            commands=chart_card.commands_of(pair.runs),
            revision=pair.key,
        )
        st.caption(
            "p of edited facts: when the search for the target stops, before the matrices are changed (mean over six "
            "contexts of the geometric mean of the answer's tokens). "
            + (
                f"Known by itself: {len(known[1])} of {known[0]} whose true answer the unedited model says, p of that "
                "answer, taken in the same way."
                if known
                else "What this model knows by itself was recorded for the embedded model only, so it is not shown."
            )
        )
    with st.container(border=True, key="card_overfitting_steps"):
        chart_card.show(
            partial(charts.step_counts, _steps(frame, arms)),
            key="overfitting step counts",
            heading="What stopping early saves",
            aside="steps a fact",
            alt="Share of facts by the number of steps after which they stopped, with and without MPES; the means are "
            "in the table below.",
            frame=frame[["run", "arm", "fact", "steps", "stopped"]],
            commands=chart_card.commands_of(pair.runs),
            revision=pair.key,
        )
        costs(frame, arms, seconds)
    with st.container(border=True, key="card_overfitting_table"):
        widgets.heading("Beside the paper's table 1", paper_tables.SOURCE)
        table_1(pair, groups, known, seconds)


def _steps(frame: pd.DataFrame, arms: Mapping[str, Arm]) -> list[tuple[Arm, pd.Series]]:
    return [(arm, frame.loc[frame["arm"] == arm.key, "steps"].astype(int)) for arm in arms.values()]


def costs(frame: pd.DataFrame, arms: Mapping[str, Arm], seconds: Mapping[str, Mapping[str, float]]) -> None:
    """A table of steps and seconds an edit."""
    phases = EDITING
    rows = []
    for arm in arms.values():
        of_arm, took = frame[frame["arm"] == arm.key], seconds[arm.key]
        cells = [seconds_an_edit(took[phase]) if phase in took else "–" for phase in phases]
        total = seconds_an_edit(sum(took.values())) if took else "–"
        early = 100 * (of_arm["stopped"] != "steps").mean()
        rows.append((arm.name, f"{of_arm['steps'].mean():.1f}", f"{early:.0f} %", total, *cells))
    columns = [
        ("Targets sought", "name"),
        ("Steps, mean", "right"),
        ("Stopped early", "right"),
        ("Seconds an edit", "right"),
        *((PHASES[phase], "right") for phase in phases),
    ]
    widgets.table(columns, rows, "Steps and seconds an edit with and without MPES")
    st.caption("Seconds as they were on the machine of the run, which may have been busy; steps depend on no machine.")


def table_1(
    pair: Pair,
    groups: Sequence[tuple[Arm, pd.Series]],
    known: tuple[str, pd.Series] | None,
    seconds: Mapping[str, Mapping[str, float]],
) -> None:
    """What was measured here, above the paper's figures."""
    means = {arm.key: f"{values.mean():.2f}" for arm, values in groups}
    took = {key: seconds_an_edit(sum(phases.values())) for key, phases in seconds.items() if phases}
    ours = (
        (f"{short_model(pair.runs[0].model)}, here", "good"),
        " / ".join(run.method for run in pair.runs),
        f"{known[1].mean():.2f}" if known else "–",
        means.get("without", "–"),
        means.get("stopped", "–"),
        took.get("without", "–"),
        took.get("stopped", "–"),
    )
    columns = (
        "original_fact_prob",
        "edited_fact_prob_without_mpes",
        "edited_fact_prob_with_mpes",
        "seconds_per_edit_without_mpes",
        "seconds_per_edit_with_mpes",
    )
    published = paper_tables.filtered(1)
    rows = [ours]
    for (method, model), part in published.groupby(["method", "model"], sort=False):
        values = dict(zip(part["quantity"], part["value"], strict=True))
        rows.append((model, method, *(f"{values[name]:.2f}" if name in values else "–" for name in columns)))
    heads = ["p known", "p, no MPES", "p, MPES", "s, no MPES", "s, MPES"]
    widgets.table(
        [("Model", "name"), ("Method", "name"), *((head, "right") for head in heads)],
        rows,
        "Probability of known and of edited facts, and seconds an edit, here and in the paper",
    )
    st.caption(
        "p: of facts that the model knows by itself, and of edited ones; s: seconds an edit. The paper's models are 11 "
        "to 60 times as large as the embedded one and were edited on GPUs, on CounterFact: compare the columns of a "
        "row with each other rather than the rows."
    )


# -- live --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tried:
    """A fact that was optimised on the visitor's model, with and without MPES.

    Attributes:
        fact: the fact.
        about: which model it was.
        trajectory: arm, step, loss, nll, kl, decay, probability.
        stopped: arm → why it stopped.
        seconds: arm → how long it took.
    """

    fact: Fact
    about: str
    trajectory: pd.DataFrame
    stopped: dict[str, str]
    seconds: dict[str, float]


def live() -> None:
    """The card in which a visitor's fact is optimised on the Edit page's model."""
    with st.container(border=True, key="card_overfitting_live"):
        widgets.heading("Try it on your model", "the one of the Edit page, with the edits on it; nothing is edited")
        remembered("overfitting_source", "example")
        st.segmented_control(
            "Where the fact comes from",
            list(SOURCES),
            key="overfitting_source",
            format_func=SOURCES.get,
            required=True,
            label_visibility="collapsed",
            persist_state="session",
        )
        try:
            fact = _example() if st.session_state["overfitting_source"] == "example" else _typed()
        except InputError as error:
            widgets.notice(Message("info", str(error)))
            fact = None
        if fact is not None:
            widgets.sentence(fact)
        if "visitor" not in st.session_state:
            st.caption("The model is loaded first, which takes some seconds (at the first start up to a minute).")
        asked = st.button(
            "Search its target twice: with and without MPES",
            type="primary",
            key="overfitting_try",
            disabled=fact is None,
        )
        if asked and fact is not None:
            _try(fact)
        widgets.notice(st.session_state.pop("overfitting_message", None))
        tried = st.session_state.get("overfitting_tried")
        if tried is not None:
            _show(tried)


def _example() -> Fact:
    facts = state.bundled_facts()
    known = [place for place, fact in enumerate(facts) if fact.known]
    remembered("overfitting_example", known[0])
    place = st.selectbox(
        f"Example · {len(known)} facts, type to search",
        known,
        key="overfitting_example",
        format_func=lambda i: f"{facts[i].text} … {facts[i].target_true} → {facts[i].target_new}",
        persist_state="session",
    )
    return facts[place]


def _typed() -> Fact:
    """The fact as typed.

    Raises:
        InputError: naming what is missing or wrong.
    """
    left, middle, right = st.columns([2, 3, 2])
    keep = {"persist_state": "session"}
    subject = left.text_input("Subject", key="overfitting_subject", placeholder="France", **keep)
    prompt = middle.text_input("Prompt", key="overfitting_prompt", placeholder="The capital of {} is", **keep)
    answer = right.text_input("New answer", key="overfitting_answer", placeholder="Rome", **keep)
    if not any((text or "").strip() for text in (subject, prompt, answer)):
        raise InputError("Type a subject, a prompt with {} or the subject in it, and the answer wanted.")
    return Fact(subject=subject or "", prompt=prompt or "", target_new=answer or "")


def _try(fact: Fact) -> None:
    """Optimise a fact twice, and keep the outcome, or a message on why there is none."""
    bar = st.progress(0.0, text="Getting the model ready …")
    try:
        visitor = state.visitor(lambda what, share: bar.progress(0.3 * min(1.0, share), text=f"{what} …"))
        session = visitor.session
        frames, stopped, seconds = [], {}, {}
        for number, arm in enumerate((WITHOUT, STOPPING)):

            def told(at: EditProgress, number: int = number, name: str = arm.name) -> None:
                share = (number + min(1.0, at.step / session.settings.steps)) / 2
                bar.progress(0.3 + 0.7 * share, text=f"Searching {name} · step {at.step} · loss {at.loss:.3f}")

            started = time.perf_counter()
            [target] = session.find_targets([fact], mpes=arm.mpes, on_progress=told)
            seconds[arm.key] = time.perf_counter() - started
            stopped[arm.key] = target.stopped
            frame = pd.DataFrame({name: getattr(target, name) for name in LOSS_COLUMNS})
            frames.append(frame.assign(arm=arm.key, step=range(len(frame))))
        edits = f"{session.n_edits} edits on it" if session.n_edits else "as loaded"
        about = f"{short_model(visitor.lm.name)}, {edits}"
        st.session_state["overfitting_tried"] = Tried(fact, about, pd.concat(frames), stopped, seconds)
    except InputError as error:
        st.session_state["overfitting_message"] = Message("error", str(error))
    except Exception:
        log.exception("the search for a target failed")
        st.session_state["overfitting_message"] = Message(
            "error", "This search failed inside the program; nothing was edited. The reason is in the server's log."
        )
    bar.empty()


def _show(tried: Tried) -> None:
    """What came out for a fact."""
    asked = f"{tried.fact.text} → {tried.fact.target_new}"
    fact_tiles(tried.trajectory, tried.stopped)
    chart_card.show(
        partial(charts.steps, tried.trajectory, [WITHOUT, STOPPING]),
        key="overfitting live",
        heading=asked if len(asked) <= 70 else asked[:69] + "…",
        aside=f"{tried.about} · "
        + ", ".join(f"{arm.name} {duration(tried.seconds[arm.key])}" for arm in (WITHOUT, STOPPING)),
        alt="Probability of the new answer, loss and its terms by step with and without MPES; where they end is said "
        "above the chart.",
        frame=tried.trajectory[["arm", "step", *LOSS_COLUMNS]].assign(
            **{name: asdict(tried.fact)[name] for name in ("subject", "prompt", "target_new")}
        ),
        revision=asked,
    )


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("overfitting"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    # Facts that can be read come first: the runs on them show most.
    pairs = {pair.key: pair for pair in mpes_pairs.pairs_of(list(known.values()))}
    asked = links.opened("overfitting")
    if asked is not None:
        restore(asked, pairs, known)
    missing = st.session_state.pop("overfitting_missing", None)
    if missing:
        widgets.notice(Message("warning", missing))
    if pairs:
        pair = pick_pair(pairs)
        try:
            of_pair(pair)
        except InputError as error:
            widgets.problem(error)
            links.write("overfitting", {})
    else:
        links.write("overfitting", {})
        widgets.notice(
            Message(
                "info",
                "No run has edited anything yet. Start MEMIT and MEMIT+MPES on the Run page, on the same facts, and "
                "they are set side by side here. Below, a single fact can be tried at once.",
            )
        )
    live()
    if pairs:
        run_picker.follow(pair.runs)


def of_pair(pair: Pair) -> None:
    """Everything about a pair of runs."""
    if len(pair.runs) == 1:
        [run] = pair.runs
        counterpart = "without" if mpes_pairs.stops_early(run) else "with"
        widgets.notice(
            Message(
                "info",
                f"There is no run {counterpart} MPES on the same facts, batches and seed, so this one stands alone.",
            )
        )
    elif not pair.clean:
        widgets.notice(
            Message(
                "info",
                "ENCORE is MEMIT with MPES and a norm constraint. The search for targets differs by MPES alone; after "
                "the first batch the matrices it works on differ, too.",
            )
        )
    run_picker.warn_of_differences(pair.runs)
    one_fact_card(pair)
    many_facts(pair)


main()
