"""Scores held to their definitions: every probability from a full forward pass of one sequence, every mean by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import CITIES, COUNTRIES, FACTS, TEMPLATES, continued

from encore_core.errors import InputError
from encore_core.facts import Fact, Neighbour
from encore_core.measures import answers as measured_answers
from encore_core.measures import generated as measured_generated
from encore_core.measures import scores as measured_scores
from encore_core.measures.answers import Answer, answer_probabilities, next_tokens
from encore_core.measures.scores import evaluate, harmonic_mean

PAIRS = [
    *((template.format(country), city) for template in TEMPLATES for country, city in list(COUNTRIES.items())[:4]),
    ("The capital of France is", "Rome"),
    ("The capital of France is", "a very old and large city"),  # the same prompt with a longer answer
    ("The capital of France is", "Xylophonic 🦄"),
    ("I", "live"),
    ("I live in Tokyo. The capital of Saudi Arabia is", "Riyadh"),
    ("The capital of France is", "Rome"),  # twice
]


@torch.no_grad()
def full(lm, prompt, answer) -> tuple[float, tuple[bool, ...]]:
    whole = lm.tokenizer(f"{prompt} {answer}", return_offsets_mapping=True)
    ids = whole["input_ids"]
    first = next(i for i, (a, b) in enumerate(whole["offset_mapping"]) if b > len(prompt) and b > a)
    log_probs = lm.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    values = [float(log_probs[i - 1, ids[i]]) for i in range(first, len(ids))]
    return sum(values) / len(values), tuple(int(log_probs[i - 1].argmax()) == ids[i] for i in range(first, len(ids)))


@pytest.mark.parametrize("max_tokens", [20, 8192])
def test_ratings_equal_full_passes(lm, monkeypatch, max_tokens):
    monkeypatch.setattr(measured_answers, "tokens_of_pass", lambda lm: max_tokens)
    for answer, (prompt, text) in zip(answer_probabilities(lm, PAIRS), PAIRS, strict=True):
        log_probability, hits = full(lm, prompt, text)
        assert answer.log_probability == pytest.approx(log_probability, abs=2e-5)
        assert answer.hits == hits
        assert answer.said == all(hits)
        assert answer.probability == pytest.approx(math.exp(log_probability), rel=1e-4)


def test_nothing_to_rate(lm):
    assert answer_probabilities(lm, []) == []
    assert continued(lm, []) == []
    assert next_tokens(lm, []) == []


def test_next_tokens(lm):
    prompts = ["The capital of France is", "I", "People from New Zealand live in the city of "]
    for prompt, found in zip(prompts, next_tokens(lm, prompts, k=5), strict=True):
        with torch.no_grad():
            ids = lm.tokenizer(prompt.rstrip())["input_ids"]
            probabilities = lm.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        top = probabilities.topk(5)
        assert [text for text, _ in found] == [lm.tokenizer.decode([token]) for token in top.indices.tolist()]
        assert [value for _, value in found] == pytest.approx(top.values.tolist(), rel=1e-4)
    assert len(next_tokens(lm, ["I"], k=10**6)[0]) == lm.model.config.vocab_size


def greedy(lm, prompt, n_tokens) -> str:
    """One token at a time from full passes."""
    ids = list(lm.tokenizer(prompt)["input_ids"])
    start = len(ids)
    with torch.no_grad():
        for _ in range(n_tokens):
            ids.append(int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == lm.tokenizer.eos_token_id:
                break
    return lm.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("max_tokens", [40, 8192])
def test_continuations_equal_one_at_a_time(lm, monkeypatch, max_tokens):
    monkeypatch.setattr(measured_generated, "MAX_TOKENS", max_tokens)
    prompts = ["The capital of France is", "I", "I live in Tokyo. The largest city of New Zealand is", "You can"]
    assert continued(lm, prompts, 6) == [greedy(lm, prompt, 6) for prompt in prompts]


def test_continuations_are_greedy_whatever_the_model_folder_says(llama, monkeypatch):
    prompts = ["You can travel there", "I live in Tokyo. I", "The capital of France is"]
    wanted = [greedy(llama, prompt, 20) for prompt in prompts]
    said = llama.tokenizer(wanted[0], add_special_tokens=False)["input_ids"]
    of_folder = {
        "do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "num_beams": 3, "suppress_tokens": said,
        "begin_suppress_tokens": said, "forced_eos_token_id": said[0], "forced_bos_token_id": said[0],
        "bad_words_ids": [[said[1]]], "no_repeat_ngram_size": 1, "min_new_tokens": 30, "max_length": 5,
        "stop_strings": [wanted[0][:4]], "exponential_decay_length_penalty": (1, 5.0), "top_k": 1, "top_p": 0.1,
    }  # fmt: skip
    for name, value in of_folder.items():
        monkeypatch.setattr(llama.model.generation_config, name, value)
    kept = llama.model.generation_config
    assert continued(llama, prompts, 20) == wanted
    assert llama.model.generation_config is kept


def test_a_prompt_that_leaves_no_room_is_an_input_error(gpt2):
    """Learned positions end; a crash in the embedding would tell nobody why."""
    room = " the" * (gpt2.max_length - 5)
    assert continued(gpt2, [room], 5) == [greedy(gpt2, room, 5)]
    with pytest.raises(InputError, match=rf"{gpt2.max_length - 4} tokens.*{gpt2.max_length}"):
        continued(gpt2, [" the" * (gpt2.max_length - 4)], 5)


def rated(values: dict[tuple[str, str], float], monkeypatch, generated: str | None = None, hits=None) -> None:
    """Let the engine believe these probabilities."""

    def fake(lm, questions, bare=False):
        pairs = [question[:2] for question in questions]
        return [Answer(math.log(values[pair]), (hits or {}).get(pair, (values[pair] > 0.5,))) for pair in pairs]

    monkeypatch.setattr(measured_scores, "answer_probabilities", fake)
    monkeypatch.setattr(measured_scores, "_continuations", lambda lm, facts, bare: [generated] * len(facts))


def test_the_definitions(monkeypatch):
    one = Fact("France", "{} is", "new", "true", ("p1", "p2"), (Neighbour("n1", "kept"), Neighbour("n2", "kept")))
    two = Fact("Spain", "{} is", "new", "true", ("p3",), (Neighbour("n3", "kept"),))
    rated(
        {
            ("France is", "new"): 0.6, ("France is", "true"): 0.1,
            ("p1", "new"): 0.3, ("p1", "true"): 0.2, ("p2", "new"): 0.1, ("p2", "true"): 0.2,
            ("n1", "kept"): 0.5, ("n1", "new"): 0.1, ("n2", "kept"): 0.1, ("n2", "new"): 0.2,
            ("Spain is", "new"): 0.2, ("Spain is", "true"): 0.3,
            ("p3", "new"): 0.9, ("p3", "true"): 0.3,
            ("n3", "kept"): 0.4, ("n3", "new"): 0.1,
        },
        monkeypatch,
        generated="It is a NEW day",
        hits={("France is", "new"): (True, True, False), ("Spain is", "new"): (True,)},
    )  # fmt: skip
    scores = evaluate(None, [one, two])
    assert scores.edit_score == pytest.approx(50.0)
    # Means within a fact first: (1/2 + 1) / 2, not 2 of 3.
    assert scores.paraphrase_score == pytest.approx(75.0)
    assert scores.neighborhood_score == pytest.approx(75.0)
    assert scores.overall_score == pytest.approx(3 / (1 / 50 + 1 / 75 + 1 / 75))
    assert scores.magnitude == pytest.approx(((0.6 - 0.1) + (0.2 - 0.3)) / 2)
    assert scores.accuracy == pytest.approx(50.0)
    assert scores.token_accuracy == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert scores.generation_efficacy == pytest.approx(100.0)
    assert scores.facts == len(scores.per_fact) == 2
    assert set(scores.as_dict()) == {
        "edit_score", "paraphrase_score", "neighborhood_score", "overall_score", "magnitude", "accuracy",
        "token_accuracy", "generation_efficacy", "portability_score", "facts",
    }  # fmt: skip


def test_a_tie_is_no_success(monkeypatch):
    fact = Fact("France", "{} is", "new", "true", (), (Neighbour("n", "kept"),))
    rated(
        {("France is", "new"): 0.2, ("France is", "true"): 0.2, ("n", "kept"): 0.1, ("n", "new"): 0.1}, monkeypatch, ""
    )
    scores = evaluate(None, [fact])
    assert (scores.edit_score, scores.neighborhood_score, scores.generation_efficacy) == (0, 0, 0)
    assert scores.paraphrase_score is None
    assert scores.overall_score is None


@pytest.mark.parametrize(("answer", "text"), [("Oman", " in Romania"), ("Niger", " Nigeria, of course")])
def test_an_answer_inside_another_word_is_not_generated(monkeypatch, answer, text):
    fact = Fact("France", "{} is", answer)
    for said, wanted in ((text, 0), (f"{text} and {answer}.", 100)):
        rated({("France is", answer): 0.9}, monkeypatch, said)
        assert evaluate(None, [fact]).generation_efficacy == wanted


def test_what_a_fact_does_not_have_does_not_count(monkeypatch):
    bare = Fact("France", "{} is", "new")
    rated({("France is", "new"): 0.9}, monkeypatch, "something else")
    scores = evaluate(None, [bare])
    assert scores.edit_score == 100  # the most probable answer, as there is none to compare with
    assert scores.magnitude is None
    assert scores.neighborhood_score is None
    rated({("France is", "new"): 0.4}, monkeypatch)
    assert evaluate(None, [bare], generate=False).edit_score == 0
    assert evaluate(None, [bare], generate=False).generation_efficacy is None


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((50.0, 75.0, 75.0), 64.2857142857),
        ((100.0, 100.0, 100.0), 100.0),
        ((0.0, 90.0, 90.0), 0.0),
        ((1.0, None, 2.0), None),
    ],
)
def test_harmonic_mean(values, mean):
    assert harmonic_mean(values) == (None if mean is None else pytest.approx(mean))


def test_evaluation_of_an_edited_model(llama, new_session):
    facts = [
        Fact(f.subject, f.prompt, f.target_new, f.target_true, (f"The largest city of {f.subject} is",),
             ({"prompt": "The capital of Japan is", "target": "Tokyo"},))
        for f in CITIES[:2]
    ]  # fmt: skip
    before = evaluate(llama, facts)
    session = new_session(llama)
    session.edit(facts)
    with session.edited():
        after = evaluate(llama, facts)
    assert (before.edit_score, after.edit_score) == (0, 100)
    assert (before.accuracy, after.accuracy) == (0, 100)
    assert before.neighborhood_score == 100
    assert after.magnitude > 0 > before.magnitude
    assert after.generation_efficacy == 100
    assert evaluate(llama, facts) == before
    assert evaluate(llama, FACTS, generate=False).facts == len(FACTS)


def test_portability_takes_the_best_answer_to_each_question(monkeypatch):
    fact = Fact(
        "France", "{} is", "new", "true",
        portability=({"prompt": "The river there is", "answers": ["Tiber", "Tevere"]},
                     {"prompt": "It is in", "answers": ["Italy"]}),
    )  # fmt: skip
    values = {("France is", "new"): 0.6, ("France is", "true"): 0.1, ("The river there is", "Tiber"): 0.2,
              ("The river there is", "Tevere"): 0.3, ("It is in", "Italy"): 0.1}  # fmt: skip
    hits = {("The river there is", "Tiber"): (True, False), ("The river there is", "Tevere"): (True, True, False, True),
            ("It is in", "Italy"): (False,)}  # fmt: skip
    rated(values, monkeypatch, hits=hits)
    scores = evaluate(None, [fact, Fact("France", "{} is", "new", "true")], generate=False)
    assert scores.portability_score == pytest.approx(100 * (0.75 + 0) / 2)
    assert scores.overall_score is None  # as the paper defines it: of three scores, which these facts lack
    found = scores.interval("portability_score")
    assert found.value == pytest.approx(scores.portability_score) and found.n == 1  # the other fact asks nothing
    assert scores.interval("edit_score").value == 100 and scores.interval("paraphrase_score") is None
    assert scores.interval("magnitude").value == pytest.approx(0.5)


def test_intervals_are_of_the_scores_themselves(lm):
    found = evaluate(lm, CITIES, generate=False)
    for name, value in found.as_dict().items():
        if name != "facts":
            interval = found.interval(name)
            assert (interval is None) == (value is None)
            assert value is None or interval.value == pytest.approx(value)
