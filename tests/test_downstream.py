"""Downstream tasks: what is asked, held to the design word by word, and the answers, held to plain passes."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch
from refusals import NO_HUB, refusal
from tiny_models import COUNTRIES, Snapshot, hooks_and_patches, metaspace_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from encore_core.facts import Fact
from encore_core.measures import downstream, task_sets
from encore_core.measures.downstream import evaluate_task, evaluate_tasks, parsed, weighted_f1
from encore_core.measures.tasks import POOL, TASKS, Example, Task, load_tasks
from encore_core.models.editable import EditableModel, wrap
from encore_core.runs import MeasurePlan
from encore_core.runs.export import command_line

SHARED = Path(__file__).parents[2] / "shared/data/downstream"

ROWS = {
    "sst2": {"sentence": " a {funny} film ", "label": 1},
    "mrpc": {"sentence1": "One {0}.", "sentence2": "Two.", "label": 0},
    "cola": {"sentence": "Him {} went.", "label": 0},
    "rte": {"sentence1": "Rain fell.", "sentence2": "It was {wet}.", "label": 0},
    "nli": {"sentence1": "Rain fell.", "sentence2": "It was dry", "label": "not_entailment"},
    "mmlu": {"question": "What is {x}?", "choices": ["one", "2 ", "three {", "4"], "answer": 2},
}
EXPECTED = {
    "sst2": ("Review : a {funny} film\nSentiment :", "positive"),
    "mrpc": (
        "Are the sentences paraphrases of each other.\nSentence 1: One {0}.\nSentence 2: Two.\nAnswer:",
        "No",
    ),
    "cola": ("Is this sentence linguistically acceptable?\nSentence: Him {} went.\nAnswer:", "No"),
    "rte": ("Rain fell.\nquestion: It was {wet}. True or False?\nanswer:", "True"),
    "nli": ("Rain fell. entails the It was dry True or False? Answer:", "False"),
    "mmlu": ("Question: What is {x}?\n(A) one (B) 2 (C) three { (D) 4\nAnswer:", "C"),
}
OPTIONS = {
    "sst2": {"positive", "negative"}, "mrpc": {"Yes", "No"}, "cola": {"Yes", "No"}, "rte": {"True", "False"},
    "nli": {"True", "False"}, "mmlu": {"A", "B", "C", "D"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Every task with 12 rows."""
    for name, row in ROWS.items():
        write(tmp_path, name, [row] * 12)
    return tmp_path


def write(folder: Path, name: str, rows: list) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- reading tasks -----------------------------------------------------------------------------------------------------


def test_prompts_are_the_ones_agreed_on(folder):
    tasks = load_tasks(folder)
    assert tuple(tasks) == TASKS
    for name, task in tasks.items():
        assert (task.tests[0].prompt, task.tests[0].answer) == EXPECTED[name]
        assert (len(task.shots), len(task.tests)) == (4, 2)
        assert set(task.options) == OPTIONS[name]


def test_examples_are_followed_by_their_answers(folder):
    prompt, _ = EXPECTED["sst2"]
    assert load_tasks(folder, ["sst2"])["sst2"].opening == 4 * f"{prompt} positive\n\n"


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([1, 0, 1, 0, 1, 0, 1, 0, 1, 0], [0, 1, 2, 3]),
        ([1, 1, 1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 3, 6]),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [0, 1, 2, 9]),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3]),
    ],
)
def test_examples_are_balanced_and_in_order(tmp_path, labels, chosen):
    rows = [{"sentence": f"row {number}", "label": label} for number, label in enumerate([*labels, 1])]
    write(tmp_path, "cola", rows)
    task = load_tasks(tmp_path, ["cola"])["cola"]
    assert [f"row {number}\n" in shot.prompt for shot, number in zip(task.shots, chosen, strict=True)] == [True] * 4
    assert [shot.answer for shot in task.shots] == [{1: "Yes", 0: "No"}[labels[number]] for number in chosen]


def test_one_example_of_each_letter(tmp_path):
    letters = [0, 0, 3, 1, 1, 2, 0, 1, 2, 3, 3]
    write(tmp_path, "mmlu", [ROWS["mmlu"] | {"answer": letter} for letter in letters])
    task = load_tasks(tmp_path, ["mmlu"])["mmlu"]
    assert [shot.answer for shot in task.shots] == ["A", "D", "B", "C"]


def test_lines_end_at_newlines_only(tmp_path):
    """Texts may hold other separators; blank lines do not count."""
    rows = [{"sentence": "one\u2028two\x85three", "label": 1}] * 12
    write(tmp_path, "cola", [*rows, ""])
    assert "one\u2028two\x85three" in load_tasks(tmp_path, ["cola"])["cola"].tests[0].prompt


BAD_ROWS = {
    "no JSON": ("sst2", '{"sentence": "x", "label"', "line 3", "not valid JSON"),
    "no object": ("sst2", "[1, 2]", "line 3", "not a JSON object"),
    "no label": ("sst2", {"sentence": "x"}, "line 3", "no field 'label'"),
    "no text": ("rte", {"sentence1": "x", "label": 0}, "line 3", "no field 'sentence2'"),
    "blank text": ("cola", {"sentence": " ", "label": 0}, "line 3", "sentence ' ' is not text"),
    "number for text": ("cola", {"sentence": 5, "label": 0}, "line 3", "sentence 5 is not text"),
    "unknown label": ("cola", {"sentence": "x", "label": 2}, "label 2 is unknown", "one of 1, 0"),
    "label as text": ("cola", {"sentence": "x", "label": "1"}, "label '1' is unknown", "one of 1, 0"),
    "label as truth": ("cola", {"sentence": "x", "label": True}, "label True is unknown", "one of 1, 0"),
    "label as list": ("cola", {"sentence": "x", "label": [1]}, "label [1] is unknown", "one of 1, 0"),
    "label of another set": ("nli", ROWS["nli"] | {"label": 1}, "label 1 is unknown", "'entailment', 'not_entailment'"),
    "three choices": ("mmlu", ROWS["mmlu"] | {"choices": ["a", "b", "c"]}, "choices", "not four"),
    "no list of choices": ("mmlu", ROWS["mmlu"] | {"choices": "abcd"}, "choices 'abcd'", "not four"),
    "a blank choice": ("mmlu", ROWS["mmlu"] | {"choices": ["a", "b", "", "d"]}, "choice ''", "is not text"),
    "answer out of range": ("mmlu", ROWS["mmlu"] | {"answer": 4}, "answer 4 is unknown", "0, 1, 2, 3"),
}


@pytest.mark.parametrize(("name", "row", "first", "second"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_named(folder, name, row, first, second):
    write(folder, name, [ROWS[name], ROWS[name], row, *[ROWS[name]] * 10])
    message = refusal(load_tasks, folder)
    assert f"{name}.jsonl, line 3" in message
    assert first in message and second in message


def test_bad_files_are_named(folder, monkeypatch):
    write(folder, "rte", [ROWS["rte"]] * 10)
    assert "rte.jsonl has 10 rows" in refusal(load_tasks, folder) and "11" in refusal(load_tasks, folder)
    (folder / "rte.jsonl").write_text("")
    assert "has 0 rows" in refusal(load_tasks, folder)
    (folder / "rte.jsonl").write_bytes(b"\xff\xfe")
    assert "rte.jsonl cannot be read" in refusal(load_tasks, folder)
    (folder / "rte.jsonl").unlink()
    assert "'rte' has no file" in refusal(load_tasks, folder)
    (folder / "rte.jsonl").mkdir()
    assert "rte.jsonl cannot be read" in refusal(load_tasks, folder)
    assert "does not exist" in refusal(load_tasks, folder / "nowhere")
    assert "does not exist" in refusal(load_tasks, folder / "cola.jsonl")
    assert "'squad'" in refusal(load_tasks, folder, ["cola", "squad"]) and "mmlu" in refusal(load_tasks, folder, ["x"])
    monkeypatch.setattr("encore_core.measures.tasks.MAX_BYTES", 100)
    assert "larger than" in refusal(load_tasks, folder, ["cola"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_shared_files():
    tasks = load_tasks(SHARED)
    for name, task in tasks.items():
        assert len(task.tests) >= 100
        answers = [shot.answer for shot in task.shots]
        assert {answers.count(option) for option in task.options} == {4 // len(OPTIONS[name])}
    # Labels of GLUE are easily turned round; these rows speak for themselves.
    by_prompt = {test.prompt: test.answer for task in tasks.values() for test in (*task.shots, *task.tests)}
    followed = "P. Prayong, who like Kevala belongs to the Theravada sect of Buddhism"
    assert [answer for prompt, answer in by_prompt.items() if prompt.startswith(followed)] == ["True"]
    assert [answer for prompt, answer in by_prompt.items() if "film 's performances are thrilling" in prompt] == [
        "positive"
    ]


# -- judging answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Yes", "Yes"), ("yes, it", "Yes"), ("YES.", "Yes"), ("\nNo\n", "No"), ("(No)", "No"), ("“No”", "No"),
        ("", None), (" ", None), ("Yesterday", None), ("1 Yes", None), ("Maybe yes", None), ("?!", None),
    ],
)  # fmt: skip
def test_the_first_word_is_the_answer(text, answer):
    assert parsed(text, ("Yes", "No")) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" A", "A"), ("(C) three", "C"), ("D.", "D"), ("a cat", None), ("E", None), ("AB", None), ("A1", None)],
)
def test_letters_are_capital(text, answer):
    assert parsed(text, ("A", "B", "C", "D")) == answer


def test_weighted_f1_by_hand():
    """Yes: 2 of 3 found, claimed 3 times: F1 = 2·2/(3+3) = 2/3. No: 1 of 2 found, claimed once: 2·1/(2+1) = 2/3."""
    truth = ["Yes", "Yes", "Yes", "No", "No"]
    assert weighted_f1(truth, ["Yes", "Yes", None, "No", "Yes"]) == pytest.approx((3 * 2 / 3 + 2 * 2 / 3) / 5)
    # Nothing claimed falsely: Yes 2·2/(3+2) = 4/5, No 2·1/(2+1) = 2/3.
    assert weighted_f1(truth, ["Yes", "Yes", None, "No", None]) == pytest.approx((3 * 4 / 5 + 2 * 2 / 3) / 5)
    # Always the same answer: Yes 2·3/(3+5) = 3/4, No 0.
    assert weighted_f1(truth, ["Yes"] * 5) == pytest.approx((3 * 3 / 4 + 0) / 5)
    assert weighted_f1(truth, truth) == 1
    assert weighted_f1(truth, [None] * 5) == 0
    assert weighted_f1(["Yes", "Yes"], ["No", "Yes"]) == pytest.approx(2 / 3)  # a class that is claimed, never true


def f1_from_confusions(truth, predictions) -> float:
    """Another way: precision and recall from a table of confusions, unparsable answers a class of its own."""
    classes = sorted({*truth, *(p or "unparsable" for p in predictions)})
    table = np.zeros((len(classes), len(classes)))
    for wanted, found in zip(truth, predictions, strict=True):
        table[classes.index(wanted), classes.index(found or "unparsable")] += 1
    total = 0.0
    for number, support in enumerate(table.sum(1)):
        precision = table[number, number] / max(table[:, number].sum(), 1)
        recall = table[number, number] / max(support, 1)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        total += support * f1 / table.sum()
    return total


def test_weighted_f1_equals_precision_and_recall():
    generator = np.random.default_rng(0)
    for _ in range(50):
        truth = generator.choice(["A", "B", "C"], 20, p=[0.6, 0.3, 0.1]).tolist()
        predictions = [p or None for p in generator.choice(["A", "B", "C", "D", ""], 20).tolist()]
        assert weighted_f1(truth, predictions) == pytest.approx(f1_from_confusions(truth, predictions))


# -- asking ------------------------------------------------------------------------------------------------------------

CITIES = ("Rome", "Tokyo", "Madrid", "Wellington", "Old")


def question(country: str) -> str:
    return f"The capital of {country} is"


SMALL_TASK = Task(
    name="capitals",
    options=CITIES,
    shots=(Example(question("Norway"), "Oslo"), Example(question("Peru"), "Lima")),
    tests=tuple(
        Example(prompt, city)
        for country, city in [("Italy", "Rome"), ("Japan", "Tokyo"), ("Spain", "Madrid"), ("New Zealand", "Wellington"),
                              ("France", "Rome"), ("Kenya", "Madrid"), ("Italy", "Tokyo")]
        for prompt in (question(country), f"People from {country} live in the city of")
    ),
)  # fmt: skip
"""Of what the tiny models have learned, with answers that they get right or wrong or that are no options."""


@torch.no_grad()
def plain_predictions(lm, task, tests) -> tuple[list[str | None], list[str]]:
    """Each test from full passes over its whole text: the greedy answer, and the most probable option."""
    opening = "".join(f"{shot.prompt} {shot.answer}\n\n" for shot in task.shots)
    said, likelier = [], []
    for test in tests:
        ids = list(lm.tokenizer(opening + test.prompt)["input_ids"])
        n_prompt = len(ids)
        for _ in range(3):
            ids.append(int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == lm.tokenizer.eos_token_id:
                ids.pop()
                break
        words = "".join(c if c.isalnum() else " " for c in lm.tokenizer.decode(ids[n_prompt:])).split()
        matches = [o for o in task.options if words and words[0].lower() == o.lower()]
        said.append(matches[0] if matches else None)
        scores = []
        for option in task.options:
            whole = lm.tokenizer(f"{opening}{test.prompt} {option}")["input_ids"]
            log_probs = lm.model(torch.tensor([whole]), use_cache=False).logits[0].double().log_softmax(-1)
            values = [float(log_probs[i - 1, whole[i]]) for i in range(n_prompt, len(whole))]
            scores.append(sum(values) / len(values))
        likelier.append(task.options[scores.index(max(scores))])
    return said, likelier


@pytest.mark.parametrize("max_tokens", [12, 1024])
@pytest.mark.parametrize("max_tests", [3, 100])
def test_scores_equal_one_test_at_a_time(lm, monkeypatch, max_tokens, max_tests):
    monkeypatch.setattr(downstream, "MAX_TOKENS", max_tokens)
    tests = SMALL_TASK.tests[:max_tests]
    truth = [test.answer for test in tests]
    said, likelier = plain_predictions(lm, SMALL_TASK, tests)
    scores = evaluate_task(lm, SMALL_TASK, max_tests)
    assert scores.n == len(tests)
    assert scores.unparsable == said.count(None)
    assert scores.f1 == pytest.approx(100 * f1_from_confusions(truth, said))
    assert scores.f1_nll == pytest.approx(100 * f1_from_confusions(truth, likelier))
    assert scores.accuracy == pytest.approx(100 * np.mean([a == b for a, b in zip(truth, said, strict=True)]))
    assert scores.too_long == 0


def test_the_small_task_tells_models_apart(lm):
    """Otherwise the comparison above would show little: answers of several tokens, right, wrong and unparsable ones."""
    lengths = {len(lm.tokenizer(f"is {city}")["input_ids"]) - len(lm.tokenizer("is")["input_ids"]) for city in CITIES}
    assert min(lengths) < max(lengths)
    said, likelier = plain_predictions(lm, SMALL_TASK, SMALL_TASK.tests)
    assert len(set(likelier)) > 1
    assert len({*said}) > 1


def test_several_tasks(llama):
    told = []
    tasks = {"one": SMALL_TASK, "two": Task("two", ("Yes", "No"), (), SMALL_TASK.tests[:1])}
    tasks["two"] = Task("two", ("Rome", "Oslo"), SMALL_TASK.shots, SMALL_TASK.tests[:5])
    found = evaluate_tasks(llama, tasks, max_tests=4, progress=lambda what, share: told.append((what, share)))
    assert list(found) == ["one", "two"]
    assert found["one"] == evaluate_task(llama, SMALL_TASK, 4)
    assert found["two"].n == 4
    assert told == [("Downstream task one", 0.0), ("Downstream task two", 0.5)]


def test_a_task_without_examples_and_with_one_test(llama):
    """Nothing is shared between rows, or everything is."""
    bare = Task("bare", CITIES, (), SMALL_TASK.tests[:1])
    said, likelier = plain_predictions(llama, bare, bare.tests)
    scores = evaluate_task(llama, bare)
    assert (scores.f1, scores.f1_nll) == (100 * (said == ["Rome"]), 100 * (likelier == ["Rome"]))
    unlike = Task("unlike", CITIES, (), (Example("People", "Rome"), Example("I live in the city of", "Rome")))
    assert evaluate_task(llama, unlike).n == 2


def test_tests_that_do_not_fit_are_left_out(gpt2):
    room = gpt2.max_length - len(gpt2.tokenizer(SMALL_TASK.opening)["input_ids"])
    long = Example(question("France") + " the" * room, "Rome")
    task = Task("long", CITIES, SMALL_TASK.shots, (long, *SMALL_TASK.tests[:3], long))
    scores = evaluate_task(gpt2, task)
    without = evaluate_task(gpt2, Task("short", CITIES, SMALL_TASK.shots, SMALL_TASK.tests[:3]))
    assert (scores.n, scores.too_long) == (3, 2)
    assert (scores.f1, scores.f1_nll, scores.accuracy) == (without.f1, without.f1_nll, without.accuracy)
    message = refusal(evaluate_task, gpt2, Task("long", CITIES, SMALL_TASK.shots, (long,)))
    assert "'long'" in message and f"at most {gpt2.max_length}" in message


@pytest.mark.parametrize("options", [("Rome",), ("Rome", "a very old and large city")])
def test_the_last_test_that_fits_is_asked(gpt2, options):
    """Learned positions end; one too many would be a crash, one too few a test lost."""
    n_bare = len(gpt2.tokenizer("the")["input_ids"])
    longest = max(len(gpt2.tokenizer(f"the {option}")["input_ids"]) for option in options) - n_bare
    assert (longest > 3) == (len(options) > 1)
    n_behind = max(3, longest) - 1
    lengths = {}
    for n in range(120):
        prompt = "The" + " the" * n
        lengths.setdefault(len(gpt2.tokenizer(prompt)["input_ids"]), prompt)
    room = gpt2.max_length - n_behind
    assert evaluate_task(gpt2, Task("edge", options, (), (Example(lengths[room], "Rome"),))).n == 1
    refusal(evaluate_task, gpt2, Task("edge", options, (), (Example(lengths[room + 1], "Rome"),)))


def test_too_few_tests(gpt2):
    assert "0 tests" in refusal(evaluate_task, gpt2, SMALL_TASK, 0)


def test_a_broken_model_answers_nothing(gpt2):
    broken = torch.full_like(gpt2.parameter(1), math.nan)
    with gpt2.matrices_replaced({1: broken}):
        scores = evaluate_task(gpt2, SMALL_TASK)
    assert (scores.f1, scores.f1_nll, scores.accuracy) == (0, 0, 0)
    assert scores.unparsable == scores.n


def test_a_text_that_ends_is_judged_up_to_there(gpt2):
    """A model that stops at once says nothing; what generation goes on with behind the end does not count."""
    head = gpt2.model.get_output_embeddings()
    calls = []

    def ends_at_once(module, inputs, output):
        if output.numel():
            calls.append(output)
            output[...] = 0.0
            output[..., gpt2.tokenizer.eos_token_id if len(calls) == 1 else rome] = 100.0
        return output

    rome = gpt2.tokenizer(" Rome")["input_ids"][0]
    task = Task("ends", ("Rome",), SMALL_TASK.shots, SMALL_TASK.tests[:2])
    handle = head.register_forward_hook(ends_at_once)
    try:
        scores = evaluate_task(gpt2, task)
    finally:
        handle.remove()
    assert len(calls) == 3
    assert scores.unparsable == 2


def test_an_edit_changes_the_answers(llama, new_session):
    task = Task("edited", CITIES, (), (Example(question("France"), "Rome"),))
    before = evaluate_task(llama, task)
    session = new_session(llama)
    session.edit([Fact("France", "The capital of {} is", "Rome", "Paris")])
    with session.edited():
        after = evaluate_task(llama, task)
    assert (before.f1, after.f1) == (0, 100)
    assert after.f1_nll == 100
    assert evaluate_task(llama, task) == before


@pytest.fixture(scope="module")
def roomy_llama() -> EditableModel:
    """Untrained, with room for four examples of the real tasks."""
    tokenizer = metaspace_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=8192, hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(LlamaForCausalLM(config), tokenizer, "roomy-llama")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_the_real_tasks_are_asked_as_they_stand(roomy_llama):
    """Whole texts, tokenised in one piece, on a model of another tokenizer."""
    tasks = load_tasks(SHARED)
    found = evaluate_tasks(roomy_llama, tasks, max_tests=3)
    for name, task in tasks.items():
        said, likelier = plain_predictions(roomy_llama, task, task.tests[:3])
        truth = [test.answer for test in task.tests[:3]]
        assert found[name].n == 3
        assert found[name].f1 == pytest.approx(100 * f1_from_confusions(truth, said))
        assert found[name].f1_nll == pytest.approx(100 * f1_from_confusions(truth, likelier))


def test_the_model_is_left_as_it_was(lm):
    weights, tidy = Snapshot.of(lm), hooks_and_patches(lm)
    evaluate_task(lm, SMALL_TASK)
    assert weights.holds(lm)
    assert hooks_and_patches(lm) == tidy
    assert set(COUNTRIES.values()) >= {"Rome", "Tokyo"}


# -- fetching them from the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub that answers, from Parquet files as it has them; the folder they are in, and an empty data folder."""
    import pyarrow
    from pyarrow.parquet import write_table

    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(task_sets, "hub_trouble", lambda: None)
    files = tmp_path / "hub"

    def put(repo: str, file: str, rows: list[dict]) -> None:
        path = files / repo / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(pyarrow.Table.from_pylist(rows), path)

    texts = [f"text {number}" for number in range(40)]
    # Three quarters of the rows have one answer.
    labels = [int(number % 4 > 0) for number in range(40)]
    single = [{"sentence": text, "label": label, "idx": 0} for text, label in zip(texts, labels, strict=True)]
    pairs = [{"sentence1": t, "sentence2": f"of {t}", "label": n} for t, n in zip(texts, labels, strict=True)]
    for name, rows in {"sst2": single, "cola": single, "mrpc": pairs, "rte": pairs}.items():
        put("nyu-mll/glue", f"{name}/validation-00000-of-00001.parquet", rows)
    put("nyu-mll/glue", "rte/train-00000-of-00001.parquet", [row | {"sentence2": "train"} for row in pairs])
    questions = [{"question": t, "subject": "s", "choices": list("wxyz"), "answer": i % 4} for i, t in enumerate(texts)]
    put("cais/mmlu", "all/validation-00000-of-00001.parquet", questions)

    def download(repo: str, file: str, revision: str, kind: str) -> Path:
        assert (revision, kind) == ("main", "dataset")
        path = files / repo / file
        if not path.exists():
            raise OSError(f"404 for {file}\nand more")
        return path

    monkeypatch.setattr(task_sets, "fetch_file", download)
    return files


def test_the_hubs_rows_become_tasks(hub):
    told = []
    folder = task_sets.fetch_tasks(lambda what, share: told.append((what, share)))
    assert folder == task_sets.hub_folder() and task_sets.is_fetched()
    assert [what.split()[-1] for what, _ in told] == list(TASKS) and told[3][1] == 0.5
    tasks = load_tasks(folder)
    for name, task in tasks.items():
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        answers = Counter(row["answer" if name == "mmlu" else "label"] for row in rows)
        assert set(answers.values()) == {10}, name  # as many of each as of the rarest
        assert len(task.tests) == len(rows) - POOL
        assert len({test.answer for test in task.tests}) == len(task.options)
    nli = [json.loads(line) for line in (folder / "nli.jsonl").read_text("utf-8").splitlines()]
    assert {row["label"] for row in nli} == {"entailment", "not_entailment"}
    # Entailment is 0 on the hub, and the sentences are not those of rte.
    assert {row["sentence2"] for row in nli} == {"train"}
    assert all((int(row["sentence1"].split()[1]) % 4 == 0) == (row["label"] == "entailment") for row in nli)


def test_what_is_here_is_not_fetched_again(hub, monkeypatch):
    first = {path.name: path.read_bytes() for path in task_sets.fetch_tasks().iterdir()}
    monkeypatch.setattr(task_sets, "hub_trouble", lambda: NO_HUB)
    assert {path.name: path.read_bytes() for path in task_sets.tasks_folder("hub").iterdir()} == first
    assert task_sets.tasks_folder("elsewhere") == Path("elsewhere")
    # Made anew, the drawing is the same.
    shutil.rmtree(task_sets.hub_folder())
    monkeypatch.setattr(task_sets, "hub_trouble", lambda: None)
    assert {path.name: path.read_bytes() for path in task_sets.fetch_tasks().iterdir()} == first


def test_without_the_hub_one_line_says_what_to_do(hub, monkeypatch):
    monkeypatch.setattr(task_sets, "hub_trouble", lambda: NO_HUB)
    message = refusal(task_sets.fetch_tasks)
    assert "cannot be reached" in message and "sst2.jsonl" in message and "\n" not in message
    assert not task_sets.is_fetched()


@pytest.mark.parametrize("trouble", ["gone", "no parquet", "other columns", "too few rows"])
def test_data_are_there_whole_or_not_at_all(hub, trouble):
    import pyarrow
    from pyarrow.parquet import write_table

    file = hub / "cais/mmlu/all/validation-00000-of-00001.parquet"
    if trouble == "gone":
        file.unlink()
    elif trouble == "no parquet":
        file.write_bytes(b"<html>")
    else:
        fields = {"question": ["q"], "subject": ["s"], "choices": [list("wxyz")], "answer": [1]}
        fields = fields if trouble == "too few rows" else {"question": ["q"]}
        write_table(pyarrow.table(fields), file)
    message = refusal(task_sets.fetch_tasks)
    assert "'mmlu'" in message and "\n" not in message
    assert not task_sets.hub_folder().exists()
    assert not list(task_sets.hub_folder().parent.glob(".*"))


def test_a_plan_can_ask_for_the_hubs_data(hub, tiny_folder, statistics_text):
    measure = MeasurePlan(downstream="hub")
    prepared = tiny_runs.prepared(tiny_folder, statistics_text, measure=measure)
    assert prepared.plan.measure.downstream == str(task_sets.hub_folder())
    assert "--downstream hub" in command_line(prepared.plan)
    named = replace(prepared.plan, measure=MeasurePlan(downstream="/some/folder"))
    assert "--downstream /some/folder" in command_line(named)
