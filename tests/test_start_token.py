"""The start token: in front of every text alike, chosen by a measurement, recorded, and told where it is missing."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import tiny_models
import torch
from refusals import refusal
from tiny_models import CITIES, DEFAULTS, FACTS

from encore_core.cli import main
from encore_core.editing import stored_statistics
from encore_core.editing.covariance import windows_of
from encore_core.editing.edited_model import EditedModel
from encore_core.editing.keys import KeyReader
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import optimise_targets
from encore_core.errors import InputError
from encore_core.export.folder import edit_report, write_model_folder
from encore_core.facts import Fact
from encore_core.forward.prompts import PREFIX_TOKENS, encode_contexts, encode_fact, on_sink, sample_prefixes
from encore_core.forward.tokens import tokens_of
from encore_core.measures.answers import answer_probabilities, next_tokens
from encore_core.measures.downstream import evaluate_task
from encore_core.measures.generated import GenerationSettings, generate
from encore_core.measures.perplexity_entropy import perplexity, sample_continuations
from encore_core.measures.scores import evaluate
from encore_core.measures.sublayers import measure_contributions
from encore_core.measures.tasks import Example, Task
from encore_core.model_check import check_model
from encore_core.models import start_token
from encore_core.models.editable import EditableModel, load_model, wrap
from encore_core.models.start_token import Measured, best

BEGIN = "<|begin|>"
PREFIXES = ("I live in Tokyo", "People from Kenya")
TEXTS = ("France is large, and old.", "The capital of Kenya", "Oslo")


@pytest.fixture(scope="module")
def bare(gpt2) -> EditableModel:
    """A model whose tokenizer puts nothing in front, as GPT-2's."""
    return gpt2


@pytest.fixture(scope="module")
def started(gpt2) -> EditableModel:
    """The same with a start token."""
    lm = wrap(gpt2.model, tiny_models.byte_level_tokenizer(), gpt2.name)
    lm.start_token = lm.tokenizer.convert_tokens_to_ids(BEGIN)
    return lm


@pytest.fixture(scope="module")
def with_bos(gpt2) -> EditableModel:
    """The same with a tokenizer that puts that very token in front by itself: what a start token must be equal to."""
    return wrap(gpt2.model, tiny_models.byte_level_tokenizer(bos=True), gpt2.name)


# -- in front of every text --------------------------------------------------------------------------------------------


def test_it_stands_in_front_of_every_text_but_one_that_begins_with_a_special_token(bare, started, with_bos):
    for text in (*TEXTS, "", " ", "🦄"):
        [plain], [found], [wanted] = (tokens_of(lm, [text]) for lm in (bare, started, with_bos))
        assert found.ids == (started.start_token, *plain.ids) == wanted.ids
        assert found.n_added == wanted.n_added == 1 and plain.n_added == 0
        assert found.offsets == ((0, 0), *plain.offsets)
        assert tokens_of(started, [text], bare=True) == [plain]
    for special in (BEGIN, "<|end|>"):
        text = f"{special}France"
        assert tokens_of(started, [text]) == tokens_of(bare, [text])
        assert tokens_of(started, [text])[0].n_added == 0


def test_a_bos_that_the_text_has_is_not_doubled(with_bos, bare):
    """Chat templates write it, and the tokenizer would put another in front."""
    [found] = tokens_of(with_bos, [f"{BEGIN}France"])
    assert found.ids == tokens_of(bare, [f"{BEGIN}France"])[0].ids
    assert found.offsets[0] == (0, len(BEGIN)) and found.n_added == 0


def reads(lm: EditableModel) -> dict[str, object]:
    """Everything that runs texts, as plain values."""
    pairs = [(fact.text, answer) for fact in FACTS for answer in (fact.target_new, fact.target_true)]
    text = " ".join(tiny_models.CORPUS[:40])
    settings = replace(target_settings(EditSession(lm, settings=DEFAULTS).settings), steps=3)
    task = Task("sst2", ("Yes", "No"), (Example("Is it old?", "Yes"),), (Example("Is Oslo old?", "No"),))
    with lm.lock:
        targets = optimise_targets(lm, FACTS, PREFIXES, 1, settings)
        reader = KeyReader(lm, FACTS, PREFIXES, (0, 1))
        keys, states = reader.keys(0).clone(), reader.states(0).clone()
    return {
        "answer_probabilities": [answer.log_probability for answer in answer_probabilities(lm, pairs)],
        "next tokens": [value for row in next_tokens(lm, TEXTS) for _, value in row],
        "texts": generate(lm, TEXTS, GenerationSettings(whole=True)),
        "samples": sample_continuations(lm, TEXTS, n_tokens=5),
        "scores": evaluate(lm, CITIES).as_dict(),
        "perplexity": perplexity(lm, text),
        "contributions": [share for part in measure_contributions(lm, TEXTS).parts for share in (part.share,)],
        "windows": windows_of(lm, f"{text}\n\n{text[:50]}", 900),
        "targets": [value for target in targets for value in (*target.z.tolist(), *target.loss)],
        "keys": keys.flatten().tolist() + states.flatten().tolist(),
        "task": [evaluate_task(lm, task).f1_nll],
    }


def test_everything_reads_texts_as_behind_a_tokenizers_own_bos(bare, started, with_bos):
    found, wanted, without = reads(started), reads(with_bos), reads(bare)
    for name, value in wanted.items():
        if isinstance(value, list) and value and isinstance(value[0], float):
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
        else:
            assert found[name] == value, name
    differing = {"answer_probabilities", "next tokens", "perplexity", "contributions", "windows", "targets", "keys"}
    assert all(found[name] != without[name] for name in differing)


def test_what_is_asked_bare_is_what_a_program_gets_that_puts_nothing_in_front(bare, started):
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    assert answer_probabilities(started, pairs, bare=True) == answer_probabilities(bare, pairs)
    settings = GenerationSettings(whole=True)
    assert generate(started, TEXTS, settings, bare=True) == generate(bare, TEXTS, settings)
    assert evaluate(started, CITIES, bare=True) == evaluate(bare, CITIES)
    assert answer_probabilities(started, pairs) != answer_probabilities(bare, pairs)


def test_every_window_of_statistics_begins_with_it(started, with_bos):
    windows = windows_of(started, " ".join(tiny_models.CORPUS[:60]), 10_000)
    assert len(windows) > 3 and all(window[0] == started.start_token for window in windows)
    assert all(window.count(started.start_token) == 1 for window in windows)
    assert max(map(len, windows)) == min(256, started.max_length)


def test_sampled_prefixes_are_ten_tokens_of_text(bare, started, with_bos):
    for lm, length in ((bare, PREFIX_TOKENS), (started, PREFIX_TOKENS + 1)):
        for text in sample_prefixes(lm, 0):
            assert BEGIN not in text
            assert len(tokens_of(lm, [text])[0].ids) >= length - 3  # merged anew, so about as many


def test_what_is_kept_on_disk_is_kept_apart(bare, started, statistics_text):
    assert bare.texts_key == bare.fingerprint != started.texts_key
    sessions = [EditSession(lm, settings=DEFAULTS, statistics_text=statistics_text) for lm in (bare, started)]
    for session in sessions:
        session.prepare()
    stored_statistics = [set(session._statistics_files().values()) for session in sessions]
    assert not stored_statistics[0] & stored_statistics[1]


# -- a subject on the sink ---------------------------------------------------------------------------------------------

FIRST = Fact("Oslo", "{} is a city in", "Kenya", "Norway")


def test_nothing_comes_from_a_subject_that_is_the_first_token(bare, started, gpt2):
    """Without a start token its plain prompt gives way to the prompt behind a prefix, in keys, h and clamp alike."""
    encoded = encode_fact(bare, FIRST)
    if encoded.lookup:  # the tiny tokenizer may cut a name in pieces; then the last of them is no sink
        pytest.fail("the fact must be about the first token")
    assert on_sink(bare, [FIRST, CITIES[0]]) == [FIRST] and on_sink(started, [FIRST]) == []
    plain, first, *_ = encode_contexts(bare, [FIRST], PREFIXES)[0]
    assert plain == first and first.lookup > 0
    behind = Fact(FIRST.subject, f"{PREFIXES[0]}. {FIRST.prompt}", FIRST.target_new)
    settings = replace(target_settings(EditSession(bare, settings=DEFAULTS).settings), steps=2)
    with bare.lock:
        [target] = optimise_targets(bare, [FIRST], PREFIXES, 1, settings)
        [wanted] = optimise_targets(bare, [behind], (), 1, settings)
        h = KeyReader(bare, [FIRST], PREFIXES, (0, 1)).states(0)
    torch.testing.assert_close(target.h, wanted.h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(h[:, 0].float(), wanted.h, rtol=1e-4, atol=1e-5)
    assert encode_contexts(started, [FIRST], PREFIXES)[0][0] == encode_fact(started, FIRST)


def test_the_norm_of_its_target_is_that_behind_a_prefix(bare, statistics_text, monkeypatch):
    """NAS: v₀ and h are read in the same context, neither at the first token."""
    session = EditSession(bare, "AlphaEdit+NAS", settings=DEFAULTS, statistics_text=statistics_text)
    [target] = session.find_targets([FIRST])
    behind, seen = encode_fact(bare, FIRST, session.prefixes[0]), []
    handle = bare.down_projections[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        bare.model(input_ids=torch.tensor([behind.ids]))
    handle.remove()
    v0 = seen[0].reshape(-1, bare.d_model)[behind.lookup]
    v = v0 + target.z - target.h
    monkeypatch.setattr(EditedModel, "anchor", lambda self, progress=None: 0.9 * float(v.norm()))
    [edited] = session.edit([FIRST], known="edit").edited
    torch.testing.assert_close(edited.target.z, target.h - v0 + 0.9 * v, rtol=1e-4, atol=1e-5)


def test_it_is_told_before_the_edit(bare, started, statistics_text, caplog):
    told = []
    session = EditSession(bare, settings=DEFAULTS, statistics_text=statistics_text)
    session.edit([FIRST], known="edit", on_progress=lambda progress: told.append(caplog.text))
    assert "first token" in told[0] and "--start-token" in told[0]
    assert "first token" in session.history[0].report.notices[0]
    other = EditSession(started, settings=DEFAULTS, statistics_text=statistics_text)
    assert not other.edit([FIRST], known="edit").notices


# -- which one ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    gpt2.save(folder)
    return folder


def test_the_user_decides(folder):
    begin = tiny_models.byte_level_tokenizer().convert_tokens_to_ids(BEGIN)
    assert load_model(str(folder), start_token=BEGIN).start_token == begin
    assert load_model(str(folder), start_token=BEGIN).start_text == BEGIN
    for none in ("none", " None "):
        assert load_model(str(folder), start_token=none).start_token is None
    message = refusal(lambda: load_model(str(folder), start_token="<s>"))
    assert "'<s>'" in message and BEGIN in message and "'auto'" in message


def test_where_the_tokenizer_puts_one_in_front_there_is_none(llama, tmp_path):
    llama.save(tmp_path)
    assert load_model(str(tmp_path)).start_token is None
    assert "in front" in refusal(lambda: load_model(str(tmp_path), start_token="<s>"))


def test_by_default_it_is_measured_once(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    calls = []

    def measured(model, tokenizer):
        calls.append(1)
        return [Measured("", -3.0, -1.0), Measured(BEGIN, -1.0, -1.0)]

    monkeypatch.setattr(start_token, "measured", measured)
    assert load_model(str(folder)).start_text == load_model(str(folder)).start_text == BEGIN
    assert len(calls) == 1


def test_a_measurement_that_cannot_be_read_is_made_again(folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    lm = load_model(str(folder))
    [file] = (tmp_path / "start_tokens").iterdir()
    assert json.loads(file.read_text())["token"] == "none" and lm.start_token is None
    file.write_text("{")
    load_model(str(folder))
    assert "measured again" in caplog.text and json.loads(file.read_text())["token"] == "none"


def test_the_doctor_says_what_it_will_be(folder, llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    assert check_model(str(folder)).start_token == "measured when the model is loaded first"
    lm = load_model(str(folder), device="cpu")
    stored_statistics.note_model(lm.texts_key, lm.name)
    assert check_model(str(folder)).start_token == "none"
    llama.save(tmp_path / "llama")
    assert "tokenizer puts a token in front" in check_model(str(tmp_path / "llama")).start_token
    edited = shutil.copytree(folder, tmp_path / "edited")
    (edited / "edit_report.json").write_text(json.dumps({"start_token": BEGIN}))
    assert check_model(str(edited)).start_token == load_model(str(edited)).start_text == BEGIN
    main(["doctor", "--model", str(edited)])
    assert f"start token       {BEGIN}" in capsys.readouterr().out


def test_the_measurement_is_the_models_own_log_probability(gpt2):
    """Against `answer_probabilities`, which is held to full passes elsewhere."""
    table = {row.token: row for row in start_token.measured(gpt2.model, gpt2.tokenizer)}
    assert next(iter(table)) == "" and BEGIN in table
    wanted = [answer.log_probability for answer in answer_probabilities(gpt2, start_token.FIRST_TOKEN_FACTS)]
    assert table[""].first == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    lm = wrap(gpt2.model, gpt2.tokenizer, "started")
    lm.start_token = lm.tokenizer.convert_tokens_to_ids(BEGIN)
    wanted = [answer.log_probability for answer in answer_probabilities(lm, start_token.OTHER_FACTS)]
    assert table[BEGIN].others == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([("", -2.5, -0.6), ("<a>", -3.4, -1.1), ("<b>", -1.0, -0.5)], "<b>"),
        ([("", -2.5, -0.6), ("<a>", -1.5, -0.6), ("<b>", -1.0, -0.5)], "<b>"),
        ([("", -2.5, -0.6), ("<a>", -2.2, -0.6)], "none"),  # no gain to speak of
        ([("", -2.5, -0.6), ("<a>", -1.0, -1.6)], "none"),  # spoils the other facts
        ([("", -9.0, -9.0), ("<a>", -8.0, -9.0)], "none"),  # knows none of them
        ([("", -2.5, -0.6)], "none"),
        ([("", math.nan, math.nan), ("<a>", math.nan, math.nan)], "none"),
    ],
)
def test_the_best_is_chosen_or_none(rows, wanted):
    assert best([Measured(*row) for row in rows]) == wanted


# -- recorded ----------------------------------------------------------------------------------------------------------


def test_report_card_and_reload_name_it(started, statistics_text, tmp_path):
    session = EditSession(started, settings=DEFAULTS, statistics_text=statistics_text)
    report = session.edit(list(CITIES), known="edit")
    assert all(item.probability_bare is not None for item in report.edited)
    with session.edited() as lm:
        wanted = answer_probabilities(lm, [(fact.text, fact.target_new) for fact in CITIES], bare=True)
    # Passes of other prompts beside them round otherwise on some processors.
    probabilities = pytest.approx([answer.probability for answer in wanted], rel=1e-5)
    assert [item.probability_bare for item in report.edited] == probabilities
    write_model_folder(tmp_path / "out", session, [report], "a test", 3)
    saved = json.loads((tmp_path / "out" / "edit_report.json").read_text())
    assert saved["start_token"] == BEGIN
    assert saved["batches"][0]["facts"][0]["text"] == "The capital of France is Rome"
    assert saved["batches"][0]["facts"][0]["probability_without_start_token"] == report.edited[0].probability_bare
    card = (tmp_path / "out" / "README.md").read_text()
    assert "before a prompt" in card and "after, with nothing in front" in card
    # The folder is read as it was edited, by default; its own tokenizer puts nothing in front.
    assert load_model(str(tmp_path / "out")).start_text == BEGIN
    assert load_model(str(tmp_path / "out"), start_token="none").start_token is None


def test_a_folder_that_was_edited_before_there_was_one_is_read_as_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(start_token, "measured", lambda *_: [Measured("", -3.0, -1.0), Measured(BEGIN, -1.0, -1.0)])
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    old = shutil.copytree(folder, tmp_path / "old")
    assert load_model(str(old)).start_text == BEGIN
    (old / "edit_report.json").write_text(json.dumps({"method": "ENCORE"}))
    assert load_model(str(old)).start_token is None


def test_without_one_the_card_says_so(bare, statistics_text):
    session = EditSession(bare, settings=DEFAULTS, statistics_text=statistics_text)
    report = session.edit([CITIES[0]], known="edit")
    assert report.edited[0].probability_bare is None
    assert edit_report(session, [report], "a test", 1)["start_token"] is None


def test_a_state_goes_on_only_where_texts_begin_alike(bare, started, statistics_text):
    one, other = (EditSession(lm, settings=DEFAULTS, statistics_text=statistics_text) for lm in (bare, started))
    one.edit([CITIES[0]], known="edit")
    with pytest.raises(InputError, match="start_token"):
        other.restore(one.state())


# -- the embedded model ------------------------------------------------------------------------------------------------


@pytest.mark.embedded
def test_the_embedded_models_start_token_is_what_parted_its_documents(embedded_model):
    assert embedded_model.start_text == "<|endoftext|>"
    table = start_token.measured(embedded_model.model, embedded_model.tokenizer)
    assert best(table) == "<|endoftext|>"
    asked = [("Paris is the capital of", "France"), ("Tokyo is the capital of", "Japan")]
    with_it, without = (
        answer_probabilities(embedded_model, asked),
        answer_probabilities(embedded_model, asked, bare=True),
    )
    assert min(answer.probability for answer in with_it) > 0.8
    assert max(answer.probability for answer in without) < 0.1


@pytest.mark.embedded
@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("ENCORE", 0.5), ("MEMIT", 0.8)])
def test_facts_about_the_first_token_are_said_as_typed(embedded_model, method, least):
    facts = [
        Fact("Paris", "{} is the capital of", "Spain", "France"),
        Fact("Chicago", "{} is located in the country of", "Japan", "the United States"),
        Fact("Tokyo", "{} is the capital of", "Chile", "Japan"),
    ]
    session = EditSession(embedded_model, method)
    report = session.edit(facts)
    assert sorted(item.probability_after for item in report.edited)[1] >= least
    # As a user's own program asks, who puts the token in front by hand.
    with session.edited() as lm, torch.no_grad():
        ids = lm.tokenizer("<|endoftext|>Paris is the capital of", return_tensors="pt").input_ids
        said = lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax())
    assert said == " Spain"
