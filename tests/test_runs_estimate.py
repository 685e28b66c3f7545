"""Estimates: what is timed once is not timed again, and more work costs more."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny_models
import tiny_runs
import torch
from refusals import refusal

from encore_core.methods import settings_for
from encore_core.models.editable import wrap
from encore_core.models.memory import Sizes
from encore_core.runs import MeasurePlan, PreparedRun, RunStore, estimate, prepare
from encore_core.runs.estimate import Calibration
from encore_core.runs.fact_order import scored_places
from encore_core.runs.runner import SAVE_SECONDS


@pytest.fixture
def ready(tiny_folder, statistics_text) -> PreparedRun:
    return tiny_runs.prepared(tiny_folder, statistics_text, n_edits=20)


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))


CALIBRATION = Calibration(
    fact_seconds=1.0, fixed_share=0.0, batch_seconds=0.5, scored_prompt_seconds=0.25 / 3,
    generated_prompt_seconds=0.5 / 3, perplexity_seconds=3.0, foretold_seconds=0.0, contributions_seconds=1.0,
    entropy_seconds=5.0, downstream_test_seconds=0.5,
    matrices_bytes=18_000_000, preservation_bytes=94_000_000, dtype="float32", device_type="cpu",
    sizes=Sizes(n_weights=134_515_008, n_layers=30, d_model=576, d_mlp=1536, n_vocab=49152, d_heads=576, d_cache=384),
)  # fmt: skip
"""Of the embedded model, with round seconds."""


def planned(ready: PreparedRun, **values) -> PreparedRun:
    """Another plan over the same facts, as many as it wants."""
    plan = replace(ready.plan, **values)
    facts = (ready.facts * 1000)[: plan.n_edits]
    return replace(ready, plan=plan, facts=tuple(replace(f, subject=f"{f.subject} {n}") for n, f in enumerate(facts)))


def test_a_calibration_is_made_once_and_leaves_the_model_alone(gpt2, ready, monkeypatch):
    before = tiny_models.Snapshot.of(gpt2)
    made = estimate.calibrate(gpt2, ready)
    assert before.holds(gpt2)
    assert 0 <= made.fixed_share <= 0.9
    assert made.fact_seconds > 0 and made.batch_seconds > 0 and made.scored_prompt_seconds > 0
    assert made.generated_prompt_seconds == 0  # its plan asks for teacher-forced scores alone
    assert made.perplexity_seconds > 0 and made.entropy_seconds > 0 and made.contributions_seconds > 0
    assert made.matrices_bytes == 2 * 32 * 64 * 4 and made.preservation_bytes == 2 * 64 * 64 * 8
    assert made.sizes.n_weights == sum(parameter.numel() for parameter in gpt2.model.parameters())
    assert (made.dtype, made.device_type) == ("float32", "cpu")

    monkeypatch.setattr(estimate, "_measure", lambda *_: pytest.fail("it was measured again"))
    assert estimate.calibrate(gpt2, ready) == made


def test_a_state_of_a_model_in_bfloat16_has_its_matrices_in_float32(gpt2, ready):
    half = wrap(copy.deepcopy(gpt2.model).to(torch.bfloat16), gpt2.tokenizer, "half")
    assert estimate.calibrate(half, ready).matrices_bytes == 2 * 32 * 64 * 4


def test_what_a_calibration_depends_on_has_its_own(gpt2, llama, ready, monkeypatch, tiny_folder, statistics_text):
    names = {estimate._identity(gpt2, ready), estimate._identity(llama, ready)}
    for values in ({"method": "MEMIT"}, {"overrides": tiny_runs.SETTINGS | {"steps": 3}}, {"batch_size": 1}):
        names.add(estimate._identity(gpt2, tiny_runs.prepared(tiny_folder, statistics_text, **values)))
    for wanted in (tiny_runs.EVERYTHING, replace(tiny_runs.EVERYTHING, chat="no")):
        both = tiny_runs.prepared(tiny_folder, statistics_text, measure=wanted)
        names.add(estimate._identity(gpt2, both))
    bare = replace(tiny_runs.QUICK, foretold_damage=not tiny_runs.QUICK.foretold_damage)
    names.add(estimate._identity(gpt2, tiny_runs.prepared(tiny_folder, statistics_text, measure=bare)))
    assert len(names) == 8
    judged = replace(tiny_runs.EVERYTHING, judge="echo yes")
    assert estimate._identity(gpt2, tiny_runs.prepared(tiny_folder, statistics_text, measure=judged)) in names
    # More facts, or another seed, take no longer each.
    same = tiny_runs.prepared(tiny_folder, statistics_text, n_edits=8, seed=3)
    assert estimate._identity(gpt2, same) == estimate._identity(gpt2, ready)


def test_a_damaged_calibration_is_made_anew(gpt2, ready, tmp_path):
    made = estimate.calibrate(gpt2, ready)
    [file] = (tmp_path / "home" / "calibration").iterdir()
    for content in ("", "{", "[]", '{"fact_seconds": 1}', '{"other": 1}', '{"sizes": 1}', '{"sizes": {"n_layers": 3}}'):
        file.write_text(content, encoding="utf-8")
        assert estimate.calibrate(gpt2, ready).matrices_bytes == made.matrices_bytes
    assert file.stat().st_size > 100


def prompts_at(run: PreparedRun) -> list[int]:
    """Prompts at each checkpoint: three for a fact."""
    return [3 * len(places) for places in scored_places(run.facts, run.plan)]


def once(prompts: int) -> float:
    """Seconds of a checkpoint."""
    return prompts * (0.25 + 0.5) / 3 + 3 + 1 + 5


def test_the_estimate_adds_up_what_was_timed(ready):
    """1,000 edits in batches of 50 with a checkpoint every 100, by hand."""
    run = planned(ready, n_edits=1000, batch_size=50, checkpoint_every=100, measure=MeasurePlan(share_cap=None))
    cost = estimate.estimate(run, CALIBRATION)
    saving = 10 * 2 * 112_000_000 / estimate.DISK_BYTES_PER_SECOND
    assert cost.n_checkpoints == 11 and not cost.capped
    assert cost.editing_seconds == pytest.approx(1000 * 1.0 + 20 * 0.5 + saving)
    assert cost.measuring_seconds == pytest.approx(sum(map(once, prompts_at(run))))
    assert cost.seconds == cost.editing_seconds + cost.measuring_seconds
    assert 2 * 112_000_000 < cost.disk_bytes < 3 * 112_000_000


def test_a_fact_in_several_subsets_is_scored_once(ready):
    """Sample, newest and first batch are the same 20 facts here; of 100 later on, 50 and some of the last and first."""
    small = planned(ready, n_edits=20, batch_size=20, checkpoint_every=20, measure=MeasurePlan(share_cap=None))
    assert prompts_at(small) == [60, 60]
    large = planned(ready, n_edits=1000, batch_size=50, checkpoint_every=100, measure=MeasurePlan(share_cap=None))
    assert all(3 * 50 <= n < 3 * 90 for n in prompts_at(large))
    assert estimate.estimate(small, CALIBRATION).measuring_seconds == pytest.approx(2 * once(60))


def test_a_state_is_saved_every_few_minutes_between_far_checkpoints(ready):
    run = planned(ready, n_edits=3000, batch_size=50, checkpoint_every=3000)
    edits = 3000 * 1.0 + 60 * 0.5
    saves = edits / SAVE_SECONDS
    assert saves > 10
    cost = estimate.estimate(run, CALIBRATION)
    assert cost.editing_seconds == pytest.approx(edits + saves * 2 * 112_000_000 / estimate.DISK_BYTES_PER_SECOND)


def test_facts_with_more_prompts_take_longer_to_score(gpt2, ready):
    """Four times the neighbours and paraphrases: one calibration serves both. Without neighbours there is another."""
    wide = replace(ready, facts=tuple(
        replace(fact, paraphrases=fact.paraphrases * 4, neighbours=fact.neighbours * 4) for fact in ready.facts
    ))  # fmt: skip
    few, many = (estimate.estimate(run, CALIBRATION).measuring_seconds for run in (ready, wide))
    n = sum(prompts_at(ready))
    assert many - few == pytest.approx((9 / 3 - 1) * n * 0.25 / 3)
    assert estimate._identity(gpt2, wide) == estimate._identity(gpt2, ready)
    bare = replace(ready, facts=tuple(replace(fact, neighbours=()) for fact in ready.facts))
    assert estimate._identity(gpt2, bare) != estimate._identity(gpt2, ready)


def test_every_worker_has_the_model(ready):
    """But for the statistics, which the first one alone has."""
    one, four = (estimate.estimate(planned(ready, n_edits=100, workers=n), CALIBRATION).memory_bytes for n in (1, 4))
    weights = 4 * CALIBRATION.sizes.n_weights
    assert one + 3 * (estimate.PROCESS_BYTES + weights) < four < 4 * one


def test_the_runs_of_a_comparison_measure_the_unedited_model_once(ready):
    """With another seed another sample is scored; a model that refuses a part shares nothing."""
    run = planned(ready, n_edits=1000, batch_size=50, checkpoint_every=100, measure=MeasurePlan(share_cap=None))
    other = replace(run, plan=replace(run.plan, method="MEMIT"))
    seeded = replace(run, plan=replace(run.plan, seed=7))
    timed = replace(CALIBRATION, foretold_seconds=2.0)
    first, second, third = estimate.estimates([run, other, seeded], [timed] * 3)
    later = [once(n) + 2 for n in prompts_at(run)[1:]]
    assert first.measuring_seconds == pytest.approx(sum(later) + once(prompts_at(run)[0]))  # no edit costs nothing
    assert second.measuring_seconds == pytest.approx(sum(later))
    assert third.measuring_seconds > second.measuring_seconds + once(0)
    assert [first] == estimate.estimates([run], [timed])
    refusing = replace(timed, contributions_seconds=0.0)
    first, second = estimate.estimates([run, other], [refusing] * 2)
    assert first.measuring_seconds == second.measuring_seconds


def test_facts_share_what_a_step_takes_for_itself(ready):
    """Half of a step with four facts is its own, with 64 next to nothing; smaller batches are timed as they are."""
    shared = replace(CALIBRATION, fixed_share=0.5)
    assert [shared.fact_seconds_of(n) for n in (1, 4, 16, 64, 1000)] == [1.0, 1.0, 0.625, 0.53125, 0.53125]
    run = planned(ready, n_edits=160, batch_size=16, checkpoint_every=160)
    alone, together = (estimate.estimate(run, c).editing_seconds for c in (CALIBRATION, shared))
    assert together == pytest.approx(alone - 160 * 0.375)


@pytest.mark.parametrize(
    ("few", "many", "share"), [(0.66, 1.632, 0.509), (0.5, 0.4, 0.9), (0.2, 0.8, 0.0), (0.2, 9.0, 0.0)]
)
def test_a_busy_machine_makes_no_edit_free(monkeypatch, ready, few, many, share):
    """Steps of 4 and of 16 facts; what two times would say of a third stays between nothing and most of it."""
    monkeypatch.setattr(estimate, "_step_seconds", lambda session, facts: few if len(facts) == 4 else many)
    assert estimate._fixed_share(None, ready.facts[:16], 4) == pytest.approx(share, abs=1e-3)
    assert estimate._fixed_share(None, ready.facts[:3], 4) == 0.0


def test_memory_is_no_less_than_was_seen(ready):
    """A worker with ENCORE on the embedded model held up to 2.8 GB in batches of 50 CounterFact facts (2026-11-27)."""
    settings = settings_for("ENCORE", model_type="llama", n_layers=30, d_model=576, n_vocab=49152)
    run = replace(planned(ready, n_edits=1000, batch_size=50), settings=settings)
    assert 2.8e9 < estimate.estimate(run, CALIBRATION).memory_bytes < 1.5 * 2.8e9


def test_the_cap_bounds_measuring(ready):
    tight = planned(ready, n_edits=1000, batch_size=50, checkpoint_every=50, measure=MeasurePlan(share_cap=0.1))
    cost = estimate.estimate(tight, CALIBRATION)
    # Five parts with a share each; contributions (1 s) do not use theirs up at 19 checkpoints between.
    assert cost.editing_seconds > 1000
    between, ends = 4 * 0.1 * cost.editing_seconds / 5 + 19 * 1, sum(once(prompts_at(tight)[at]) for at in (0, -1))
    assert cost.capped and cost.measuring_seconds == pytest.approx(between + ends)
    nothing = replace(tight, plan=replace(tight.plan, measure=MeasurePlan(share_cap=0.0)))
    assert estimate.estimate(nothing, CALIBRATION).measuring_seconds == pytest.approx(ends)


@pytest.mark.parametrize(
    ("less", "more", "what"),
    [
        ({"n_edits": 100}, {"n_edits": 200}, "editing_seconds"),
        ({"n_edits": 100}, {"n_edits": 200}, "disk_bytes"),
        ({"batch_size": 50}, {"batch_size": 5}, "editing_seconds"),
        ({"batch_size": 5}, {"batch_size": 50}, "memory_bytes"),
        ({"checkpoint_every": 100}, {"checkpoint_every": 20}, "measuring_seconds"),
        ({"measure": MeasurePlan(subsets=())}, {"measure": MeasurePlan()}, "measuring_seconds"),
        ({"measure": MeasurePlan(protocols=("generated",))}, {"measure": MeasurePlan()}, "measuring_seconds"),
        ({"measure": MeasurePlan(protocols=("teacher-forced",))}, {"measure": MeasurePlan()}, "measuring_seconds"),
        ({"measure": MeasurePlan(protocols=("teacher-forced",))}, {"measure": MeasurePlan()}, "disk_bytes"),
        ({"measure": MeasurePlan(perplexity=False)}, {"measure": MeasurePlan()}, "measuring_seconds"),
        ({"measure": MeasurePlan()}, {"measure": MeasurePlan(downstream="d")}, "measuring_seconds"),
    ],
)
def test_more_costs_more(ready, less, more, what):
    usual = {"n_edits": 100, "batch_size": 20, "checkpoint_every": 50, "measure": MeasurePlan(share_cap=None)}
    small, large = (estimate.estimate(planned(ready, **(usual | values)), CALIBRATION) for values in (less, more))
    assert getattr(small, what) < getattr(large, what)


def test_a_tiny_run_costs_about_what_is_estimated(tiny_folder, statistics_text, tmp_path, gpt2):
    """Within a factor of four either way: more than noise, less than a mistake of an order of magnitude."""
    run = tiny_runs.prepared(tiny_folder, statistics_text, n_edits=24, batch_size=4, checkpoint_every=8,
                             measure=tiny_runs.EVERYTHING)  # fmt: skip
    cost = estimate.estimate(run, estimate.calibrate(gpt2, run))
    store = RunStore(tmp_path / "runs")
    [run_id] = store.submit([run])
    tiny_runs.worker(store).serve()
    info = store.get(run_id)
    assert 0.25 < cost.editing_seconds / info.editing_seconds < 4
    assert 0.25 < cost.measuring_seconds / info.measuring_seconds < 4
    used = sum(path.stat().st_size for path in store.folder_of(run_id).iterdir())
    assert used < cost.disk_bytes


def test_facts_that_cannot_be_edited_are_refused(gpt2, tiny_folder, statistics_text):
    facts = [replace(tiny_runs.FACTS[0], prompt="The capital of {} " + "which is large " * 50 + "is")]
    run = prepare(tiny_runs.plan(tiny_folder, statistics_text, n_edits=1), facts)
    assert "tokens" in refusal(estimate.calibrate, gpt2, run)
