"""Plans: every field refuses what it cannot take, and the facts of a run are chosen once and for all."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_runs
from refusals import refusal

from encore_core.errors import InputError
from encore_core.facts import Fact, check_batch, read_facts, write_facts
from encore_core.runs.fact_order import arranged, batch_ends, checkpoints, choose_facts
from encore_core.runs.facts_file import fact_lines, facts_from_lines
from encore_core.runs.plan import MeasurePlan, RunPlan
from encore_core.runs.preparing import prepare

NO_COUNTS = (0, -1, 2**70, 1.5, "3", True, math.nan, math.inf, [], {}, b"1")
NO_FLAGS = (0, 1, "true", None, math.nan, [])
NO_PATHS = ("", "  ", "a\nb", "\x00", 3, True, [], "x" * 5000)

HOSTILE = {
    "method": ("", "ROME2", None, 3, [], "ENCORE;", math.nan),
    "model": ("", "   ", None, 3, [], "a\nb", "x" * 5000),
    "facts": (*NO_PATHS, None),
    "find_subjects": NO_FLAGS,
    "skip_bad": NO_FLAGS,
    "n_edits": NO_COUNTS,
    "batch_size": (*NO_COUNTS, None),
    "checkpoint_every": NO_COUNTS,
    "name": (None, 3, "a\nb", "x" * 101, "\x1b[31m", []),
    "order": ("", "random", None, 1, [], "File"),
    "seed": (-1, 2**63, 1.0, "0", None, True, math.nan),
    "overrides": (None, 3, "lambda_n=3", [("lambda_n", 3)], {"lambda_q": 1}, {"lambda_n": math.nan}, {"steps": {1}}),
    "known": ("", "refuse", None, 1, True),
    "device": ("", 3, [], "a\nb", "x" * 50),
    "dtype": ("", "float16", 3, [], "FLOAT32"),
    "workers": (0, -1, 257, 1.5, True, "2", None),
    "start_token": ("", "  ", None, 3, [], "a\nb", "x" * 101),
    "statistics_text": NO_PATHS,
    "measure": (None, {}, 3, "all", []),
}
HOSTILE_MEASURES = {
    "subsets": (None, "sample", ["oldest"], 3, [3], {"sample": 1}),
    "sample_facts": (*NO_COUNTS, None),
    "batch_facts": (*NO_COUNTS, None),
    "protocols": (None, "generated", ["judged"], 3, [3], [], {"generated": 1}),
    "generate": NO_FLAGS,
    "chat": ("", "Yes", True, None, 1),
    "max_tokens": (*NO_COUNTS, 1001),
    "judge": (*NO_PATHS, "echo 'yes", "http://localhost:8000/v1"),
    "judge_model": NO_PATHS,
    "judge_seconds": (0, -1, math.nan, math.inf, "60", None, True),
    "perplexity": NO_FLAGS,
    "foretold_damage": NO_FLAGS,
    "generation_entropy": NO_FLAGS,
    "contributions": NO_FLAGS,
    "downstream": NO_PATHS,
    "downstream_tests": (*NO_COUNTS, None, 101),
    "share_cap": (-0.1, math.nan, math.inf, "0.25", [], True),
    "trajectory_facts": (-1, 1.5, "3", None, True, math.nan, 10**9),
}


def cases(table: dict) -> list:
    return [pytest.param(name, value, id=f"{name}={value!r:.30}") for name, values in table.items() for value in values]


def test_no_field_is_left_out_of_the_hostile_tables():
    assert set(HOSTILE) == set(vars(RunPlan()))
    assert set(HOSTILE_MEASURES) == set(vars(MeasurePlan()))


@pytest.mark.parametrize(("name", "value"), cases(HOSTILE))
def test_a_plan_refuses(name, value):
    message = refusal(lambda: RunPlan(**{name: value}))
    assert name.rstrip("s") in message or "setting" in message


@pytest.mark.parametrize(("name", "value"), cases(HOSTILE_MEASURES))
def test_a_measure_plan_refuses(name, value):
    assert name in refusal(lambda: MeasurePlan(**{name: value}))


def test_a_plan_survives_json():
    plan = RunPlan(
        method="memit+norm",
        facts="f.csv",
        n_edits=7,
        order="shuffled",
        seed=2**62,
        overrides={"layers": (1, 2), "sequential": False, "lr": "0.1"},
        measure=MeasurePlan(
            subsets=("first", "sample"), share_cap=None, downstream="d", judge="echo yes", judge_seconds=5, max_tokens=9
        ),
    )
    again = RunPlan.from_json(json.dumps(plan.to_json()))
    assert again == plan and again.method == "MEMIT+norm" and again.measure.subsets == ("sample", "first")
    assert RunPlan.from_json(plan.to_json()) == plan
    assert RunPlan.from_json({}) == RunPlan()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"methods": "ENCORE"}', "Unknown field 'methods'"),
        ('{"version": 4}', "version 4"),
        ('{"version": true}', "version True"),
        ('{"measure": 3}', "not a JSON object"),
        ('{"measure": {"perplexities": true}}', "Unknown field 'perplexities'"),
        ('{"n_edits": NaN}', "n_edits = nan"),
        ('{"batch_size": null}', "batch_size = None"),
    ],
)
def test_broken_plans_are_refused(text, wanted):
    assert wanted in refusal(RunPlan.from_json, text)


# -- choosing facts ----------------------------------------------------------------------------------------------------


def test_file_order_takes_the_first_and_shuffling_is_seeded():
    facts = list(tiny_runs.FACTS)
    assert choose_facts(facts, 5, "file", 3) == facts[:5]
    shuffled = choose_facts(facts, 20, "shuffled", 3)
    assert shuffled == choose_facts(facts, 20, "shuffled", 3) != choose_facts(facts, 20, "shuffled", 4)
    assert len({fact.key for fact in shuffled}) == 20 and shuffled[:5] != facts[:5]
    # A longer run of the same seed begins with the shorter one's facts, so that the two can be compared.
    assert choose_facts(facts, 27, "shuffled", 3)[:20] == shuffled


def fact(subject: str, target: str, template: str = "The twin city of {} is") -> Fact:
    return Fact(subject, template, target)


def test_contradictions_are_put_off_to_the_next_batch():
    a, b, c, d, e = (
        fact("Oslo", "Rome"),
        fact("Oslo", "Lima"),
        fact("Peru", "X"),
        fact("Kenya", "X"),
        fact("Spain", "X"),
    )
    order, notices = arranged([a, b, c, d, e], 2)
    assert order == [a, c, b, d, e] and len(notices) == 1 and "'Oslo'" in notices[0]
    assert batch_ends(order, 2) == [2, 4, 5]


def test_what_cannot_be_spread_makes_short_batches():
    same = [fact("Oslo", name) for name in ("A", "B", "C")]
    order, _ = arranged([*same, fact("Peru", "X")], 4)
    assert order == [same[0], fact("Peru", "X"), same[1], same[2]]
    assert batch_ends(order, 4) == [2, 3, 4]


def test_each_fact_that_is_put_off_is_told_of_once():
    """Told again for every batch that it waits, a file of one prompt would bring millions of lines."""
    order, notices = arranged([fact("Oslo", f"Name {n}") for n in range(300)], 4)
    assert [f.target_new for f in order] == [f"Name {n}" for n in range(300)]
    assert len(notices) == 299 and all("batch 1 has" in line for line in notices)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 100])
def test_every_batch_can_be_edited(batch_size):
    """The oracle is what a session makes of a batch: it neither refuses it nor drops anything from it."""
    facts = [fact(f"City {n % 7}", f"Name {n % 5}") for n in range(60)] + [fact("city  0", "Name 9")]
    order, _ = arranged(facts, batch_size)
    assert Counter((*f.key, f.target_new) for f in order) == Counter((*f.key, f.target_new) for f in facts)
    ends = batch_ends(order, batch_size)
    assert ends[-1] == len(facts)
    for start, end in zip([0, *ends], ends, strict=False):
        assert 0 < end - start <= batch_size
        kept, notices = check_batch(order[start:end])
        assert kept == order[start:end] and not notices


def test_counterfact_can_be_edited_in_any_batch_size():
    file = Path(__file__).parents[2] / "shared" / "data" / "counterfact_10k.jsonl"
    if not file.is_file():
        pytest.skip("CounterFact is not there")
    facts = read_facts(file)
    for batch_size in (50, 100):
        order, notices = arranged(facts, batch_size)
        ends = batch_ends(order, batch_size)
        assert ends == [*range(batch_size, len(facts) + 1, batch_size)] and 0 < len(notices) < 20
        for start, end in zip([0, *ends], ends, strict=False):
            assert check_batch(order[start:end]) == (order[start:end], [])


@pytest.mark.parametrize(
    ("ends", "every", "wanted"),
    [
        ([2, 4, 6, 8, 10], 4, [0, 4, 8, 10]),
        ([2, 4, 6, 8], 4, [0, 4, 8]),
        ([3, 6, 9, 10], 4, [0, 6, 9, 10]),
        ([5, 10], 1, [0, 5, 10]),
        ([5, 10], 100, [0, 10]),
        ([7], 7, [0, 7]),
    ],
)
def test_checkpoints_fall_on_ends_of_batches(ends, every, wanted):
    assert checkpoints(ends, every) == wanted


def test_facts_survive_their_lines():
    assert facts_from_lines("".join(fact_lines(tiny_runs.FACTS))) == list(tiny_runs.FACTS)
    assert "cannot be read" in refusal(facts_from_lines, "{")
    assert "cannot be read" in refusal(facts_from_lines, '{"subject": "a"}\n')


# -- preparing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tiny_folder, statistics_text) -> RunPlan:
    return tiny_runs.plan(tiny_folder, statistics_text)


def test_every_choice_is_made(plan):
    ready = prepare(replace(plan, n_edits=None, checkpoint_every=None, device=None, dtype=None), tiny_runs.FACTS)
    assert ready.plan.n_edits == len(ready.facts) == 27 and ready.plan.checkpoint_every == 3
    assert ready.plan.device in ("cpu", "cuda:0", "mps") and ready.plan.dtype == "float32"
    assert ready.plan.name == "ENCORE, 27 edits"
    assert ready.settings.layers == (0, 1) and ready.settings.method == "ENCORE"


def test_paths_do_not_depend_on_the_working_folder(plan, tiny_folder, statistics_text, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    Path("text.txt").write_text(statistics_text.read_text("utf-8"), encoding="utf-8")
    ready = prepare(replace(plan, model=tiny_folder.name, statistics_text="text.txt"), tiny_runs.FACTS)
    assert ready.plan.model == str(tiny_folder)
    assert ready.plan.statistics_text == str(tiny_folder.parent / "text.txt")


def test_all_methods_get_the_same_facts(tiny_folder, statistics_text):
    ready = [
        tiny_runs.prepared(tiny_folder, statistics_text, method=method, order="shuffled", seed=5)
        for method in ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")
    ]
    assert len({run.facts for run in ready}) == len({run.order_digest for run in ready}) == 1
    assert len({run.statistics for run in ready}) == 1


def test_digests_tell_facts_and_order_apart(plan):
    backwards = tuple(reversed(tiny_runs.FACTS[:10]))
    forth, back = prepare(plan, tiny_runs.FACTS), prepare(plan, backwards)
    other = prepare(plan, tiny_runs.FACTS[1:])
    assert forth.facts_digest == back.facts_digest != other.facts_digest
    assert forth.order_digest != back.order_digest


def test_duplicates_are_told_before_the_start(plan):
    notices = prepare(replace(plan, n_edits=None), tiny_runs.FACTS).notices
    assert any("'France' is edited 3 times" in line and "1, 10, 19" in line for line in notices)
    assert any("4 other subjects" in line for line in notices)
    assert not any("edited" in line for line in prepare(replace(plan, n_edits=9), tiny_runs.FACTS).notices)


def test_untested_settings_are_told(plan):
    assert any("untested" in line for line in prepare(plan, tiny_runs.FACTS).notices)


def of_file(tmp_path: Path, content: str) -> str:
    path = tmp_path / "facts.jsonl"
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"n_edits": 28}, "more than the 27 facts"),
        ({"model": "nowhere/at/all"}, "nowhere/at/all"),
        ({"model": "smollm3-135m"}, "smollm3-135m"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"device": "tpu"}, "tpu"),
        ({"statistics_text": "nowhere.txt"}, "nowhere.txt"),
        ({"overrides": {"layers": "3-40"}}, "layers"),
        ({"overrides": {"lambda_p": -1}}, "lambda_p"),
        ({"overrides": {"steps": "many"}}, "steps"),
        ({"overrides": {"lr": [1, 2]}}, "lr"),
        ({"method": "MEMIT", "overrides": {"lambda_n": 3}}, "no norm constraint"),
        ({"measure": MeasurePlan(downstream="nowhere")}, "nowhere"),
    ],
    ids=str,
)
def test_preparing_refuses(plan, values, wanted):
    assert wanted in refusal(prepare, replace(plan, **values), tiny_runs.FACTS)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"subject": "Spain", "prompt": "Hm", "target_new": "Rome"}'])
def test_unusable_files_of_facts_are_refused(plan, tmp_path, content):
    refusal(prepare, replace(plan, facts=of_file(tmp_path, content)))
    refusal(prepare, replace(plan, facts=str(tmp_path)))
    refusal(prepare, replace(plan, facts=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(InputError):
        prepare(plan, [])


def test_facts_are_read_from_the_file(plan, tmp_path):
    write_facts(tiny_runs.FACTS, tmp_path / "mine.jsonl")
    assert prepare(replace(plan, facts=str(tmp_path / "mine.jsonl"))).facts == prepare(plan, tiny_runs.FACTS).facts


def test_a_plan_of_before_there_was_a_start_token_goes_on_without_one():
    old = {name: value for name, value in RunPlan().to_json().items() if name != "start_token"} | {"version": 1}
    assert RunPlan.from_json(old).start_token == "none"
    assert RunPlan.from_json({}).start_token == RunPlan().start_token == "auto"
    assert RunPlan.from_json(RunPlan(start_token="<s>").to_json()).start_token == "<s>"
