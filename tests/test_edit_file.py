"""Edit files: what they restore, to the bit, and what they refuse."""

from __future__ import annotations

import functools
import json
import operator

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file, save_file
from tiny_models import CITIES, DEFAULTS, FACTS, Snapshot, byte_level_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from encore_core.editing import edited_model
from encore_core.editing.edit_file import edit_file_of, head_of, read_edit_file, write_edit_file
from encore_core.editing.session import EditSession
from encore_core.export.folder import edit_report
from encore_core.measures.norms import matrix_norms
from encore_core.models.editable import wrap


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def edited(lm, new_session):
    """Of two batches. Tests leave it as they found it."""
    session = new_session(lm)
    session.edit([CITIES[0]])
    session.edit([CITIES[1], CITIES[2]], known="edit")
    return session


def saved(session, tmp_path, **values):
    path = tmp_path / "mine.edits"
    write_edit_file(path, edit_file_of(session, **values), {"torch": torch.__version__})
    return path


def test_replayed_factors_give_the_same_bits_and_the_same_history(edited, lm, new_session, tmp_path, statistics_text):
    before = Snapshot.of(lm)
    edits = read_edit_file(saved(edited, tmp_path))
    assert edits.form == "factors" and edits.facts == list(CITIES)
    assert same(edits.matrices_on(lm), edited.matrices())
    restored = edits.session_on(lm, statistics_text=statistics_text)
    assert [batch.report.edited[0].fact for batch in restored.history] == [CITIES[0], CITIES[1]]
    for mine, theirs in zip(restored.history, edited.history, strict=True):
        for one, other in zip(mine.report.edited, theirs.report.edited, strict=True):
            assert torch.equal(one.target.z, other.target.z) and one.target.loss == other.target.loss
            assert (one.steps, one.stopped, one.probability_after) == (
                other.steps,
                other.stopped,
                other.probability_after,
            )
    # Going on and going back are what they would have been.
    for session in (restored, edited):
        session.edit([FACTS[2]], known="edit")
    assert same(restored.matrices(), edited.matrices())
    edited.undo()
    restored.undo()
    assert same(restored.matrices(), edited.matrices())
    restored.undo()
    first = new_session(lm)
    first.edit([CITIES[0]])
    assert same(restored.matrices(), first.matrices()) and restored.n_edits == 1
    assert before.holds(lm)


def test_without_history_the_matrices_themselves_are_saved(lm, new_session, tmp_path):
    session = new_session(lm, keep_history=False)
    session.edit(CITIES, known="edit")
    edits = read_edit_file(saved(session, tmp_path, facts=CITIES))
    assert edits.form == "matrices" and edits.facts == list(CITIES)
    assert same(edits.matrices_on(lm), session.matrices())
    assert "encore apply" in refusal(edits.session_on, lm)
    assert "give the facts" in refusal(edit_file_of, session)


def test_prefixes_that_nobody_reads_are_not_sampled_to_be_saved(lm, new_session, tmp_path, monkeypatch):
    monkeypatch.setattr(edited_model, "shared_prefixes", lambda *_: pytest.fail("prefixes were sampled"))
    session = new_session(lm, "UltraEdit", lr=0.1)
    session.edit(CITIES, known="edit")
    edits = read_edit_file(saved(session, tmp_path))
    assert edits.values["prefixes"] == [] and same(edits.session_on(lm).matrices(), session.matrices())
    assert edit_report(session, [one.report for one in session.history], "made up", 3)["prefixes"] == []


def test_norms_are_the_same_wherever_they_are_told(edited, lm):
    """In a report, by the session, in an edit file with or without a session, and at a run's checkpoints."""
    matrices = edited.matrices()
    before, after = matrix_norms({layer: lm.matrix(layer) for layer in matrices}), matrix_norms(matrices)
    assert edited.norms() == {layer: (before[layer], after[layer]) for layer in matrices}
    assert {layer: last for layer, (_, last) in edited.history[-1].report.norms.items()} == after
    wanted = {str(layer): {"original": before[layer], "edited": after[layer]} for layer in matrices}
    assert edit_file_of(edited).values["norms"] == head_of(lm, matrices)["norms"] == wanted


def test_norms_that_earlier_versions_summed_in_float32_are_accepted(edited, lm, tmp_path):
    """For a matrix of Llama-3-8B they are 0.5 % too small."""
    saved_norm = 0.995 * edited.norms()[0][1]
    edits = read_edit_file(forged(edit_file_of(edited), tmp_path, [("norms", "0", "edited", saved_norm)]))
    assert same(edits.session_on(lm).matrices(), edited.matrices())


def test_factors_that_outweigh_the_matrices_are_not_saved(lm, new_session, tmp_path):
    session = new_session(lm, steps=2)
    for _ in range(20):
        session.edit(CITIES, known="edit", measure=False)
    edits = read_edit_file(saved(session, tmp_path))
    assert edits.form == "matrices" and same(edits.matrices_on(lm), session.matrices())


def test_another_model_is_refused(edited, lm, gpt2, llama, tmp_path):
    edits = read_edit_file(saved(edited, tmp_path))
    other = gpt2 if lm is llama else llama
    assert "d_model" in refusal(edits.matrices_on, other)
    parameter = lm.model.get_input_embeddings().weight.data
    right, lm.fingerprint = lm.fingerprint, "0" * 16
    try:
        assert "fingerprint" in refusal(edits.session_on, lm)
    finally:
        lm.fingerprint = right
    assert parameter is not None


def test_nothing_edited_is_nothing_to_save(lm, new_session):
    assert "Nothing has been edited" in refusal(edit_file_of, new_session(lm))


def test_damage_is_found(edited, tmp_path):
    path = saved(edited, tmp_path)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "mine.edits" in refusal(read_edit_file, path)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    path.write_bytes(bytes(flipped))
    assert "damaged" in refusal(read_edit_file, path)
    path.write_bytes(whole)
    assert "more than" in refusal(read_edit_file, path, 1000)
    assert "No such file" in refusal(read_edit_file, tmp_path / "nowhere")
    save_file({"x": torch.zeros(2)}, path)
    assert "not an edit file" in refusal(read_edit_file, path)


def forged(edits, tmp_path, put=(), drop=(), tensors=None):
    """A file with other values at some places, and a digest that fits."""
    values = json.loads(json.dumps(edits.values))
    for *path, last, value in put:
        functools.reduce(operator.getitem, path, values)[last] = value
    for *path, last in drop:
        del functools.reduce(operator.getitem, path, values)[last]
    path = tmp_path / "forged"
    write_edit_file(path, type(edits)(values, edits.tensors | (tensors or {})), {})
    return path


FIRST = ("batches", 0, "edited", 0)


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (("version", 99), "reads versions 1 and 2"),
        (("form", "code"), "form is 'code', but must be factors or matrices"),
        (("norms", {}), "no edits"),
        (("norms", {"x": {"original": 1, "edited": 1}}), "norms is 'x'"),
        (("norms", {"-1": {"original": 1, "edited": 1}}), "norms is '-1'"),
        (("norms", {"99": {"original": 1, "edited": 1}}), "a layer below"),
        (("norms", "0", "edited", "1"), "norms 0 edited is '1'"),
        (("norms", "0", "edited", float("nan")), "norms 0 edited is nan"),
        (("norms", "0", "edited", 10**400), "norms 0 edited is 1000"),
        (("norms", "0", "edited", 1.0), "the file or the model is not what it claims to be"),
        (("model", None), "model is None"),
        (("dtype", "a" * 6000), "dtype is 'aaa"),
        (("base_fingerprint", "x\ny"), "base_fingerprint is 'x\\ny'"),
        (("shape", "M"), "shape is 'M'"),
        (("shape", {"d_model": 1}), "an object of d_model, d_mlp, n_layers"),
        (("shape", "n_layers", "5"), "shape n_layers is '5'"),
        (("batches", []), "a list that is not empty"),
        (("batches", 3), "batches is 3"),
        (("batches", 0, "edited", []), "batch 1 edited is []"),
        (("batches", 0, "edited", [{"fact": {"subject": "a"}, "steps": 1}]), "stopped is None"),
        (("batches", 0, "seconds", "targets", -0.1), "batch 1 seconds targets is -0.1"),
        (("batches", 0, "norms", {"0": [1, 2]}), "an object with the layers 0, 1"),
        (("batches", 0, "norms", "0", [1]), "a pair"),
        (("batches", 0, "notices", ["two\nlines"]), "one line"),
        ((*FIRST, "fact", "nonsense", 1), "the fields of a fact"),
        ((*FIRST, "fact", "subject", ""), "subject"),
        ((*FIRST, "before", -1.0), "batch 1 fact 1 before is -1.0, but must be a finite number from 0 to 1"),
        ((*FIRST, "after", "0.5"), "after is '0.5'"),
        ((*FIRST, "kl", 1, float("nan")), "kl is nan"),
        ((*FIRST, "loss", [0.5]), "different numbers of steps"),
        ((*FIRST, "steps", -1), "steps is -1"),
        (("seed", "../x"), "seed is '../x'"),
        (("seed", True), "seed is True"),
        (("settings", 4), "settings is 4"),
        (("settings", "lambda_p", 10**400), "lambda_p"),
        (("prefixes", None), "prefixes is None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_values_are_refused_in_one_line(edited, lm, tmp_path, put, told):
    """Even where somebody has made the digest anew."""
    message = refusal(lambda: read_edit_file(forged(edit_file_of(edited), tmp_path, [put])).session_on(lm))
    assert told in message and len(message) < 500


@pytest.mark.parametrize(
    "drop",
    [("shape",), ("norms", "0"), ("norms", "0", "edited"), ("seed",), ("n_edits",), ("batches", 0, "seconds"),
     (*FIRST, "fact"), (*FIRST, "nll"), (*FIRST, "fact", "subject"), ("batches", 0, "norms", "1")],
    ids=str,
)  # fmt: skip
def test_what_is_missing_is_refused_in_one_line(edited, lm, tmp_path, drop):
    refusal(lambda: read_edit_file(forged(edit_file_of(edited), tmp_path, drop=[drop])).session_on(lm))


def test_tensors_that_are_no_numbers_of_an_edit_file_are_refused(edited, tmp_path):
    edits = edit_file_of(edited)
    for tensor, told in (
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "has the number format 'F8_E4M3'"),
        (torch.zeros(2, dtype=torch.bool), "has the number format 'BOOL'"),
        (torch.tensor([float("inf")]), "not finite"),
    ):
        assert told in refusal(read_edit_file, forged(edits, tmp_path, tensors={"more": tensor}))


def test_layers_on_both_sides_of_ten(tmp_path, statistics_text):
    """The file has them in the order of their names, "10" before "9"."""
    tokenizer = byte_level_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=16, n_layer=12, n_head=2, n_inner=32)
    lm = wrap(GPT2LMHeadModel(config), tokenizer, "tiny-gpt2-of-12")
    settings = DEFAULTS | {"lambda_n": 0.001, "layers": (8, 9, 10), "steps": 1}
    session = EditSession(lm, settings=settings, statistics_text=statistics_text)
    session.edit([CITIES[0]], known="edit")
    edits = read_edit_file(saved(session, tmp_path))
    assert edits.layers == [8, 9, 10] and same(edits.matrices_on(lm), session.matrices())
    restored = edits.session_on(lm, statistics_text=statistics_text)
    assert same(restored.matrices(), session.matrices())
    assert restored.history[0].report.norms == session.history[0].report.norms


@pytest.mark.parametrize("settings", [{"lambda_p": -1}, {"layers": [99]}, {"nonsense": 1}, {"layers": [1]}], ids=str)
def test_settings_that_cannot_be_used_are_refused(edited, lm, tmp_path, settings):
    edits = edit_file_of(edited)
    hostile = type(edits)(edits.values | {"settings": edits.values["settings"] | settings}, edits.tensors)
    path = tmp_path / "hostile"
    write_edit_file(path, hostile, {})
    refusal(lambda: read_edit_file(path).session_on(lm))


def test_tensors_of_another_shape_are_refused(edited, lm, tmp_path):
    edits = edit_file_of(edited)
    for name in list(edits.tensors)[:3]:
        tensors = {**edits.tensors, name: edits.tensors[name][:-1].clone()}
        path = tmp_path / "hostile"
        write_edit_file(path, type(edits)(edits.values, tensors), {})
        assert "damaged" in refusal(lambda: read_edit_file(tmp_path / "hostile").session_on(lm))


def test_any_reader_of_safetensors_reads_it(edited, tmp_path):
    path = saved(edited, tmp_path)
    tensors = load_file(path)
    layer = edited.settings.layers[0]
    update = edited.history[0].updates[layer]
    assert torch.equal(tensors[f"0.A.{layer}"] @ tensors[f"0.Y.{layer}"].T, update.delta())
    assert json.loads(json.dumps(edit_file_of(edited).values))
