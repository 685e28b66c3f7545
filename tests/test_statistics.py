"""Key statistics: gathered, interrupted and taken up, stopped when enough, imported, chosen, and used by edits."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
import torch
from refusals import NO_HUB, refusal
from safetensors.torch import load_file

from encore_core import processes
from encore_core.editing import stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, KeySums, collect, second_moments, windows_of
from encore_core.editing.gradient_moments import collect as gradient_collect
from encore_core.editing.gradient_moments import file_beside
from encore_core.editing.gradient_moments import load as load_gradients
from encore_core.editing.session import EditSession
from encore_core.models.editable import load_model
from encore_core.statistics import convergence, gathering, jobs, texts, worker
from encore_core.statistics.convergence import Look
from encore_core.statistics.cost import cost, shortages
from encore_core.statistics.gathering import gather
from encore_core.statistics.request import Request, layers_of, tokens_of_request
from encore_core.statistics.sufficiency import places_held_out
from encore_core.statistics.texts import Interrupted

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@torch.no_grad()
def naive(lm, layer: int, windows: list[list[int]]) -> torch.Tensor:
    """E[k kᵀ] in float64, one sequence at a time by a hook on plain transformers."""
    total, count = torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64), 0
    seen: list[torch.Tensor] = []
    handle = lm.down_projections[layer].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    for ids in windows:
        seen.clear()
        lm.model(torch.tensor([ids]), use_cache=False)
        K = seen[0].reshape(-1, lm.d_mlp).double()
        total += K.T @ K
        count += len(K)
    handle.remove()
    return total / count


def windows_of_file(lm, text: Path, n_tokens: int) -> list[list[int]]:
    """The text's passages as tokens, cut off after some; none of the tests' is longer than a window."""
    rows, left = [], n_tokens
    for passage in text.read_text("utf-8").split("\n\n"):
        ids = lm.tokenizer(passage)["input_ids"][:left]
        rows += [ids] if ids else []
        left -= len(ids)
    return rows


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found.double() - expected).norm()) <= 1e-5 * float(expected.norm())


# -- gathering ---------------------------------------------------------------------------------------------------------


def test_what_is_gathered_is_the_second_moment_and_edits_use_it(gpt2, statistics_text, new_session):
    told = []
    request = Request("tiny", str(statistics_text), layers=(2, 0), tokens=900)
    result = gather(gpt2, request, lambda *at: told.append(at))
    assert result.tokens == 900 and sorted(result.files) == [0, 2] and result.enough is None
    phases = [[at[1:] for at in told if at[0] == what] for what in dict.fromkeys(at[0] for at in told)]
    assert len(phases) == 2  # keys, then gradients
    assert all(of_one[-1] == (900, 900) and of_one == sorted(of_one) for of_one in phases)
    gradients = {layer: load_gradients(file_beside(file), gpt2.d_model) for layer, file in result.files.items()}
    expected = gradient_collect(gpt2, [0, 2], windows_of_file(gpt2, statistics_text, 900))
    assert all(close(gradients[layer], expected[layer]) for layer in (0, 2))
    windows = windows_of_file(gpt2, statistics_text, 900)
    for layer, file in result.files.items():
        assert close(load_file(file)["C0"], naive(gpt2, layer, windows))
    # What the plain way gives, to the bit: they are the same files.
    plain = collect(gpt2, [0, 2], statistics_text.read_text("utf-8"), 900)
    assert all(torch.equal(load_file(result.files[layer])["C0"], plain[layer]) for layer in (0, 2))

    found = second_moments(gpt2, [0], 5000)
    assert torch.equal(found[0], plain[0])
    mine = EditSession(gpt2, "MEMIT", settings=mine_settings(2000))
    named = EditSession(gpt2, "MEMIT", settings=mine_settings(900), statistics_text=statistics_text)
    assert mine.statistics == f"layers 0, 2: text {statistics_text.name}, 900 tokens"
    for session in (mine, named):
        session.edit(tiny_models.CITIES, known="edit")
    assert all(torch.equal(mine.matrices()[layer], named.matrices()[layer]) for layer in (0, 2))
    bundled = EditSession(gpt2, "MEMIT", settings=mine_settings(900), statistics_text=SAMPLED_TEXT)
    bundled.edit(tiny_models.CITIES, known="edit")
    assert not torch.equal(bundled.matrices()[0], mine.matrices()[0])


def mine_settings(tokens: int) -> dict:
    return tiny_models.DEFAULTS | {"layers": (0, 2), "steps": 3, "statistics_tokens": tokens}


def test_nothing_is_gathered_twice(gpt2, statistics_text, monkeypatch):
    request = Request("tiny", str(statistics_text), layers=(0, 1), tokens=500)
    first = gather(gpt2, request)
    monkeypatch.setattr(KeySums, "step", lambda self: pytest.fail("ran the model"))
    assert gather(gpt2, request).files == first.files


@pytest.mark.parametrize("damaged", [(1,), (0, 1)])
@pytest.mark.parametrize("size", [0, 2000, -1])
def test_damaged_statistics_are_gathered_again(gpt2, statistics_text, damaged, size):
    request = Request("tiny", str(statistics_text), layers=(0, 1), tokens=500)
    files = gather(gpt2, request).files
    whole = {layer: load_file(file)["C0"].clone() for layer, file in files.items()}  # else the file, cut below
    for layer in damaged:
        files[layer].write_bytes(files[layer].read_bytes()[:size])
    again = gather(gpt2, request)
    assert again.files == files and again.tokens == 500
    assert all(torch.equal(load_file(file)["C0"], whole[layer]) for layer, file in again.files.items())


def test_a_session_keeps_its_statistics_whatever_is_chosen_later(gpt2, statistics_text):
    """An undo replays the history on the P that it was made with."""
    session = EditSession(gpt2, "MEMIT", settings=mine_settings(2000))
    session.edit(tiny_models.CITIES[:1], known="edit")
    before = {layer: matrix.clone() for layer, matrix in session.matrices().items()}
    session.edit(tiny_models.CITIES[1:2], known="edit")
    after = {layer: matrix.clone() for layer, matrix in session.matrices().items()}
    gather(gpt2, Request("tiny", str(statistics_text), layers=(0, 2), tokens=700))
    session.undo()
    assert all(torch.equal(session.matrices()[layer], before[layer]) for layer in before)
    session.edit(tiny_models.CITIES[1:2], known="edit")
    assert all(torch.equal(session.matrices()[layer], after[layer]) for layer in after)
    assert "bundled" in session.statistics
    session.reset()
    assert "700 tokens" in session.statistics


@pytest.mark.parametrize("back", ["undo", "reset"])
def test_without_edits_F_is_that_of_the_statistics_chosen_since(gpt2, statistics_text, back):
    session, other = (EditSession(gpt2, "ENCORE-N", settings=mine_settings(600)) for _ in range(2))
    session.edit(tiny_models.CITIES[:1], known="edit")
    before = session.metric()
    gather(gpt2, Request("tiny", str(statistics_text), layers=(0, 2), tokens=700))
    assert session.metric() is before
    getattr(session, back)()
    assert torch.equal(session.metric(), other.metric()) and not torch.equal(session.metric(), before)


def test_the_cost_is_said_before(gpt2, statistics_text, home):
    request = Request("tiny", str(statistics_text), layers=(0, 1, 2), tokens=1500)
    found = cost(gpt2, request)
    assert (found.tokens, found.layers, found.missing) == (1500, (0, 1, 2), (0, 1, 2))
    assert 0 < found.seconds < 60 and found.kept_bytes == 3 * 64 * 64 * 4
    assert not list(home.rglob("*.safetensors"))
    began = time.perf_counter()
    result = gather(gpt2, request)
    assert time.perf_counter() - began < 20 * found.seconds + 1
    size = sum(file.stat().st_size for file in result.files.values())
    assert found.kept_bytes <= size < 1.1 * found.kept_bytes + 3000
    assert cost(gpt2, request).missing == () and cost(gpt2, request).seconds == 0


def test_how_much_is_gathered_by_default(gpt2):
    assert tokens_of_request(gpt2, Request("tiny")) == 100_000  # what the settings say
    assert tokens_of_request(gpt2, Request("tiny", tokens=700)) == 700
    assert layers_of(gpt2, Request("tiny", layers=(3, 1, 3))) == (1, 3)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"source": "nowhere.txt"}, "Unknown source 'nowhere.txt'; give wikitext, wikipedia, sampled, bundled or a"),
        ({"layers": (1, 5)}, "Layer 5 is not between 0 and 4"),
        ({"tokens": 63}, "63 tokens say too little about the 64 directions .* give at least 128"),
    ],
)
def test_requests_that_cannot_be_met(gpt2, values, wanted):
    for call in (gather, cost):
        assert re.search(wanted, refusal(call, gpt2, Request("tiny", **values)))


def test_too_little_text_and_too_little_disk(gpt2, tmp_path, statistics_text, monkeypatch):
    short = tmp_path / "short.txt"
    short.write_text("The capital of France is Paris.", encoding="utf-8")
    assert "too little" in refusal(gather, gpt2, Request("tiny", str(short), tokens=500))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    said = refusal(gather, gpt2, Request("tiny", str(statistics_text), layers=(0,), tokens=500))
    assert "of disk" in said and "ENCORE_HOME" in said
    assert any("of disk" in line for line in shortages(cost(gpt2, Request("tiny", tokens=500)), gpt2.device))


def test_two_processes_do_not_gather_the_same(gpt2, statistics_text):
    request = Request("tiny", str(statistics_text), layers=(0,), tokens=500)
    with gathering._only_one(gpt2):
        assert "another process" in refusal(gather, gpt2, request)
    assert gather(gpt2, request).tokens == 500


# -- interrupted -------------------------------------------------------------------------------------------------------


def test_who_is_interrupted_goes_on_with_the_same_sums(llama, statistics_text, home):
    request = Request("tiny", str(statistics_text), layers=(0, 1), tokens=1500)
    whole = {layer: load_file(file)["C0"] for layer, file in gather(llama, request).files.items()}
    for file in home.rglob("layer*.safetensors"):
        file.unlink()
    starts = []
    for life in range(100):
        steps = iter(range(2))

        def tell(what, done, total, life=life):
            if len(starts) == life:
                starts.append(done)

        try:
            result = gather(llama, request, tell, lambda steps=steps: next(steps, None) is None)
            break
        except Interrupted:
            assert list(home.rglob("partial-*")) and not list(home.rglob("layer*.safetensors"))
    assert life > 1 and starts == sorted(set(starts)) and starts[0] == 0
    assert all(torch.equal(load_file(result.files[layer])["C0"], whole[layer]) for layer in whole)
    assert not list(home.rglob("partial-*"))


@pytest.mark.parametrize("damage", ["cut", "nothing", "of other sizes"])
def test_damaged_sums_are_begun_anew(gpt2, statistics_text, home, damage):
    request = Request("tiny", str(statistics_text), layers=(0,), tokens=1500)
    steps = iter([False, False, True])
    with pytest.raises(Interrupted):
        gather(gpt2, request, stop=lambda: next(steps))
    [partial] = home.rglob("partial-*")
    if damage == "of other sizes":
        from safetensors.torch import save_file

        state = json.dumps({"position": 2, "n_tokens": 1, "notes": {}})
        save_file({"0": torch.zeros(64, 64, dtype=torch.float64)}, partial, metadata={"state": state})
    else:
        partial.write_bytes(partial.read_bytes()[:2000] if damage == "cut" else b"")
    result = gather(gpt2, request)
    assert close(load_file(result.files[0])["C0"], naive(gpt2, 0, windows_of_file(gpt2, statistics_text, 1500)))


HARNESS = """
import os, signal, sys, time
import encore_core.editing.covariance as covariance
from encore_core.models.editable import load_model
from encore_core.statistics.gathering import gather
from encore_core.statistics.request import Request

covariance.SEQUENCES = 2
model, text = sys.argv[1:]

def life(out):
    def tell(what, done, total):
        os.write(out, f"{done}\\n".encode())
    gather(load_model(model, device="cpu"), Request(model, text, layers=(0, 1, 2), tokens=1900), tell, save_seconds=0.0)
    os.write(out, b"done\\n")

for line in sys.stdin:
    n_lines, seconds = line.split()
    into, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            life(out)
        finally:
            os._exit(0)
    os.close(out)
    with os.fdopen(into) as told:
        lines = [told.readline() for _ in range(int(n_lines))]
        time.sleep(float(seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(lines[0].strip(), "done" if "done\\n" in lines else "killed", flush=True)
"""


@pytest.mark.slow
def test_who_is_killed_goes_on_with_the_same_sums(gpt2, tiny_folder, statistics_text, home):
    """SIGKILL at moments drawn, most of them while a batch is run or its sums are written: that is all they do."""
    draw = random.Random(7)
    command = [sys.executable, "-c", HARNESS, str(tiny_folder), str(statistics_text)]
    begun = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as harness:
        while True:
            n_lines = draw.randrange(1, 9) if len(begun) < 5 else 10**4
            print(n_lines, draw.random() / 100, file=harness.stdin, flush=True)
            first, ending = harness.stdout.readline().split()
            begun.append(int(first))
            if ending == "done":
                break
        harness.stdin.close()
    assert len(begun) == 6 and begun[0] == 0 and begun[-1] > 0 and begun == sorted(begun)
    fingerprint = stored_statistics.fingerprint_of(str(tiny_folder))
    windows = windows_of_file(gpt2, statistics_text, 1900)
    for layer in range(3):
        C0 = load_file(stored_statistics.chosen(fingerprint)[layer])["C0"]
        assert close(C0, naive(gpt2, layer, windows))
    assert not list(home.rglob("partial-*"))


# -- enough ------------------------------------------------------------------------------------------------------------


def test_disturbance_is_that_of_the_update_by_hand():
    """‖Δ k‖ for residuals of length 1, from the update as it is written down, in one line of dense algebra each."""
    draw = torch.Generator().manual_seed(0)
    X, K, text = (torch.randn(12, n, generator=draw, dtype=torch.float64) for n in (80, 3, 40))
    C0 = X @ X.T / 80
    P = torch.linalg.inv(7 * C0 + 2 * torch.eye(12))
    A = torch.linalg.inv(torch.eye(3) + K.T @ P @ K) @ K.T @ P
    expected = math.sqrt(sum(float((A @ k).norm() ** 2) for k in text.T) / 40)
    assert convergence.disturbance(C0, K, text, 7, 2) == pytest.approx(expected, rel=1e-10)
    # With fewer tokens than directions there is no inverse.
    few = X[:, :5] @ X[:, :5].T / 5
    assert convergence.disturbance(few - 1e-12 * torch.eye(12), K, text, 7) == math.inf


@pytest.mark.parametrize(("lambda_p", "c"), [(1e-4, 0.5), (1e4, 1.5)], ids=["met exactly", "hardly moving"])
def test_disturbance_falls_as_more_of_the_text_is_in_C0(lambda_p, c):
    """By c d / n, as Wishart matrices say: E[Ĉ⁻¹ C Ĉ⁻¹] is about (1 + 3 d/n) C⁻¹, and E[Ĉ⁻¹] about (1 + d/n) C⁻¹."""
    draw = torch.Generator().manual_seed(1)
    d, n = 64, 640
    K, excess = torch.randn(d, 1, generator=draw, dtype=torch.float64), []
    text = 8 * torch.eye(
        d, dtype=torch.float64
    )  # its second moment is exactly that of the tokens in C0, up to a factor
    for _ in range(40):
        X = torch.randn(d, n, generator=draw, dtype=torch.float64)
        few, exact = (convergence.disturbance(C0, K, text, lambda_p) for C0 in (X @ X.T / n, torch.eye(d)))
        excess.append(few / exact - 1)
    assert sum(excess) / 40 == pytest.approx(c * d / n, rel=0.3)


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        ([(100, 1.0)], False),
        ([(100, 1.09), (200, 1.0)], True),
        ([(100, 1.11), (200, 1.0)], False),
        ([(100, 1.0), (200, 1.12)], False),
        ([(100, 1.0), (150, 1.0)], False),  # not doubled
        ([(100, math.inf), (200, math.inf)], False),
        ([(100, math.inf), (200, 1.0)], False),
    ],
)
def test_settled(looks, wanted):
    assert convergence.settled([Look(tokens, {3: value, 4: value}) for tokens, value in looks]) is wanted


def test_looks_are_plain_json():
    looks = [Look(10, {0: math.inf, 3: 0.5}), Look(20, {0: 1.5, 3: 0.25})]
    text = json.dumps([look.as_dict() for look in looks], allow_nan=False)
    assert [Look.from_dict(values) for values in json.loads(text)] == looks


def test_one_layer_that_has_not_settled_is_enough_to_go_on():
    assert not convergence.settled([Look(100, {0: 1.0, 1: 1.2}), Look(200, {0: 1.0, 1: 1.0})])


def test_it_stops_when_there_is_enough(gpt2, statistics_text, monkeypatch, home):
    told = []
    request = Request("tiny", str(statistics_text), layers=(0, 1), tokens=2500, enough=True)
    monkeypatch.setattr(gathering, "settled", lambda looks: len(looks) == 3)
    result = gather(gpt2, request, lambda *at: told.append(at))
    told = [at[1:] for at in told if at[0] == "Gathering key statistics"]
    tokens = [look.tokens for look in result.looks]
    assert result.enough and len(tokens) == 3 and result.tokens == tokens[-1] < told[-1][1]
    assert all(1.5 < now / then < 2.6 for then, now in itertools.pairwise(tokens))
    # Text that judges is not judged by itself: C0 is of the other windows, in the text's order.
    windows = windows_of(gpt2, statistics_text.read_text("utf-8"), 2500)
    held = places_held_out(windows)
    kept = [window for place, window in enumerate(windows) if place not in held]
    used, total = [], 0
    for window in kept:
        if total >= result.tokens:
            break
        used.append(window)
        total += len(window)
    assert total == result.tokens and close(load_file(result.files[1])["C0"], naive(gpt2, 1, used))
    # What was seen is remembered.
    again = gather(gpt2, request)
    assert again.looks == result.looks and again.tokens == result.tokens
    [one] = [one for one in stored_statistics.stored(gpt2.fingerprint) if one.layer == 1]
    assert [look["tokens"] for look in one.looks] == tokens


def test_looks_outlive_an_interruption(gpt2, statistics_text, monkeypatch):
    monkeypatch.setattr(gathering, "settled", lambda looks: False)
    request = Request("tiny", str(statistics_text), layers=(0,), tokens=2000, enough=True)
    whole = gather(gpt2, request)
    for file in stored_statistics.folder_of(gpt2.fingerprint).glob("layer*"):
        file.unlink()
    interruptions = 0
    while True:
        steps = iter(range(3))
        try:
            result = gather(gpt2, request, stop=lambda steps=steps: next(steps, None) is None)
            break
        except Interrupted:
            interruptions += 1
    assert interruptions > 1 and result.looks == whole.looks and result.enough is False
    assert torch.equal(load_file(result.files[0])["C0"], second_moments(gpt2, [0], 1)[0])


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_sampled_from_the_model(gpt2, home):
    before = torch.random.get_rng_state()
    text = texts.text_of(gpt2, "sampled", 2000).content
    assert torch.equal(torch.random.get_rng_state(), before)
    passages = text.strip().split("\n\n")
    assert sum(len(gpt2.tokenizer(passage)["input_ids"]) for passage in passages) >= 2000
    starts = {passage.split()[0] for passage in passages}
    assert len(starts) > len(passages) / 2  # they begin with many different words
    assert texts.text_of(gpt2, "sampled", 2000).content == text  # kept
    [file] = home.rglob("sampled-*.jsonl")
    kept = file.read_bytes()
    # A process killed while it wrote leaves half a line; the next one cuts it off and makes that batch again.
    lines = kept.split(b"\n")
    file.write_bytes(b"\n".join(lines[:1]) + b"\n" + lines[1][:40])
    assert texts.text_of(gpt2, "sampled", 2000).content == text and file.read_bytes() == kept
    # More begins with less.
    assert texts.text_of(gpt2, "sampled", 2 * 2000).content.startswith(text.rstrip())


def test_sampling_can_be_stopped(gpt2, home):
    steps = iter([False, True])
    with pytest.raises(Interrupted):
        texts.text_of(gpt2, "sampled", 10**6, stop=lambda: next(steps))
    [file] = home.rglob("sampled-*.jsonl")
    assert file.read_bytes().count(b"\n") == 1


WIKITEXT = ["", " = Valkyria = \n", " The game was published in 1 @,@ 999 , well @-@ known . \n", " = = Plot = = \n",
            " It takes place in Europe . \n"]  # fmt: skip
ARTICLES = ["Anarchism is a philosophy.\n\nIt is sceptical.", "x" * 9000]


class FakeHub:
    """Stands for the hub's file system: one Parquet file of rows for every name, in groups of two."""

    def __init__(self, rows):
        self.rows, self.opened = rows, []

    def __call__(self, **_):
        return self

    def open(self, path):
        import io

        import pyarrow as pa
        from pyarrow import parquet

        self.opened.append(path)
        buffer = io.BytesIO()
        parquet.write_table(pa.table({"title": self.rows, "text": self.rows}), buffer, row_group_size=2)
        buffer.seek(0)
        return buffer


@pytest.mark.parametrize(("source", "rows"), [("wikitext", WIKITEXT), ("wikipedia", ARTICLES)])
def test_text_from_the_hub(gpt2, monkeypatch, source, rows, home):
    hub = FakeHub(rows)
    monkeypatch.setattr("huggingface_hub.HfFileSystem", hub)
    monkeypatch.setattr(texts, "hub_trouble", lambda: None)
    monkeypatch.setattr(texts, "CHARACTERS_PER_TOKEN", 1)
    text = texts.text_of(gpt2, source, 1000).content
    assert all(path.startswith(f"datasets/{texts.HUB_TEXTS[source].repo}/") for path in hub.opened)
    passages = set(text.strip().split("\n\n"))
    if source == "wikitext":
        assert passages == {"The game was published in 1,999 , well-known .", "It takes place in Europe ."}
    else:
        assert passages == {"Anarchism is a philosophy.\nIt is sceptical.", "x" * texts.ARTICLE_CHARACTERS}
    # Fetched once; offline afterwards.
    monkeypatch.setattr(texts, "hub_trouble", lambda: NO_HUB)
    n_opened = len(hub.opened)
    assert texts.text_of(gpt2, source, 900).content == text and len(hub.opened) == n_opened


@pytest.mark.parametrize("source", texts.HUB_TEXTS)
def test_without_the_hub_it_is_one_line(gpt2, monkeypatch, source, home):
    monkeypatch.setattr(texts, "hub_trouble", lambda: NO_HUB)
    for call in (gather, cost):
        said = refusal(call, gpt2, Request("tiny", source))
        assert f"The text of {source} has not been fetched yet, and the hub cannot be reached; look at" in said
    monkeypatch.setattr(texts, "hub_trouble", lambda: None)

    def broken(**_):
        raise ConnectionError("503 Server Error\nlong story")

    monkeypatch.setattr("huggingface_hub.HfFileSystem", broken)
    assert "503 Server Error" in refusal(gather, gpt2, Request("tiny", source))
    assert not list(home.rglob("*.txt"))


# -- lists -------------------------------------------------------------------------------------------------------------


def test_what_is_there_is_found_by_the_models_name(tiny_folder, statistics_text, monkeypatch):
    lm = load_model(str(tiny_folder), device="cpu")
    gather(lm, Request(str(tiny_folder), str(statistics_text), layers=(1,), tokens=400))
    monkeypatch.chdir(tiny_folder.parent)
    assert (
        stored_statistics.fingerprint_of(tiny_folder.name)
        == lm.fingerprint
        == stored_statistics.fingerprint_of(str(tiny_folder))
    )
    assert stored_statistics.fingerprint_of("another") is None
    (stored_statistics.folder_of("0123456789abcdef")).mkdir(parents=True)
    assert [known.name for known in stored_statistics.known_models()] == [str(tiny_folder)]
    (stored_statistics.folder_of(lm.fingerprint) / "chosen.json").write_text("{damaged")
    (stored_statistics.folder_of(lm.fingerprint) / "layer1-000000000000-5.safetensors").write_bytes(b"damaged")
    assert [one.chosen for one in stored_statistics.stored(lm.fingerprint)] == [False]
    assert stored_statistics.chosen(lm.fingerprint) == {}


# -- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_goes_on_by_itself(tiny_folder, statistics_text):
    job_id = jobs.start(Request(str(tiny_folder), str(statistics_text), layers=(0,), tokens=600, device="cpu"))
    assert jobs.get(job_id).active
    end = time.monotonic() + 90
    while jobs.get(job_id).active and time.monotonic() < end:
        time.sleep(0.2)
    job = jobs.get(job_id)
    assert job.status == "done" and job.result["tokens"] == 600 and job.share == 1, job
    assert list(stored_statistics.chosen(stored_statistics.fingerprint_of(str(tiny_folder)))) == [0]
    jobs.forget(job_id)
    assert jobs.jobs() == []


@pytest.fixture
def here(monkeypatch):
    """Jobs are done by this process, when `done` is called."""
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda *args, **kwargs: type("P", (), {"wait": lambda self: None})()
    )
    monkeypatch.setattr(worker, "_settle_process", lambda: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *args: None)
    return lambda job_id: worker.main([job_id])


def test_a_job_is_stopped_and_goes_on(here, tiny_folder, statistics_text):
    job_id = jobs.start(Request(str(tiny_folder), str(statistics_text), layers=(0, 1), tokens=900, device="cpu"))
    assert jobs.get(job_id).status == "starting"
    assert "running already" in refusal(jobs.resume, job_id)
    jobs.stop(job_id)
    assert here(job_id) == 130 and jobs.get(job_id).status == "stopped"
    jobs.resume(job_id)
    assert here(job_id) == 0
    assert jobs.get(job_id).result["layers"] == [0, 1]


def test_a_job_that_fails_says_why(here, tiny_folder, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    job_id = jobs.start(Request(str(tiny_folder), str(tmp_path / "short.txt"), device="cpu"))
    assert here(job_id) == 2
    job = jobs.get(job_id)
    assert job.status == "failed" and "too little" in job.error and "\n" not in job.error
    assert "There is no job 'x'" in refusal(jobs.get, "x")


def test_a_job_whose_process_is_gone_is_interrupted(here, tiny_folder, statistics_text):
    job_id = jobs.start(Request(str(tiny_folder), str(statistics_text), layers=(0,), tokens=500, device="cpu"))
    jobs.write_state(job_id, {"status": "running", "pid": 2**22 + 1, "boot": jobs.boot_id(), "at": time.time()})
    assert jobs.get(job_id).status == "interrupted"
    jobs.resume(job_id)
    assert here(job_id) == 0
