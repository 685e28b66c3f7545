"""Gather key statistics on request: what it would cost, doing it, and going on after an interruption.

    request = Request(model="smollm2-135m", source="wikitext", enough=True)
    lm = load_model(request.model)
    print(cost(lm, request))
    result = gather(lm, request, progress)       # edits of this model use them from now on

Sums are saved every so often. Who is interrupted, by Ctrl-C or by SIGKILL, asks for the same again and goes on; the
batches and their order follow from the request alone, so the sums end as those that nobody interrupted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import (
    BUNDLED,
    SEQUENCES,
    WINDOW,
    KeySums,
    check_length,
    digest_of,
    in_batches,
    keys_of,
    windows_of,
)
from encore_core.editing.keys import KeyReader
from encore_core.errors import InputError, quoted
from encore_core.facts import read_facts
from encore_core.forward.prompts import encode_fact
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of
from encore_core.statistics.convergence import Look, disturbance, settled, stages
from encore_core.statistics.texts import PASSAGES, SAMPLED, Interrupted, check_source, text_of
from encore_core.storage import data_folder, writing

log = logging.getLogger(__name__)

USUAL, MOST = 10, 40
"""Times d_mlp: tokens that are gathered by default, and at most when it is to stop by itself."""

SAVE_SECONDS, SAVE_SHARE = 30.0, 10
"""Sums are saved this often, but so seldom that saving takes at most one part in ten of the time."""

PROBE_FACTS, HELD_OUT_TOKENS, HELD_OUT_SHARE = 32, 2048, 10
"""To see whether they are enough: facts whose keys are used, tokens that are held out, one of so many windows."""

Tell = Callable[[str, int, int], None]
"""`tell(what, done, total)`: what is being done, and how many tokens of it."""


@dataclass(frozen=True)
class Request:
    """What is to be gathered.

    Attributes:
        model: catalogue name, folder or hub id.
        source: see `texts`.
        layers: blocks; None for those that ENCORE edits on this model.
        tokens: how many of the text; None for ten times d_mlp or what the model's settings say, whichever is more.
        enough: stop when more tokens would change little (see `settling`); `tokens` are then the most.
        device, dtype, start_token: as for `models.load_model`.
    """

    model: str
    source: str = BUNDLED
    layers: tuple[int, ...] | None = None
    tokens: int | None = None
    enough: bool = False
    device: str | None = None
    dtype: str | None = None
    start_token: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Request:
        """The request that `to_json` gave."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        return cls(**values | {"layers": tuple(values["layers"]) if values.get("layers") else None})


@dataclass(frozen=True)
class Cost:
    """What gathering would take.

    Attributes:
        layers, tokens: of how many, and of how much text, at most.
        seconds: all of it, from a short calibration; 0 when everything is there.
        sampling_seconds: the part of them for sampling the text.
        memory_bytes: on top of the loaded model.
        disk_bytes: while it goes on; `kept_bytes` of them stay.
        kept_bytes: the statistics themselves.
        missing: layers that are not there yet.
    """

    layers: tuple[int, ...]
    tokens: int
    seconds: float
    sampling_seconds: float
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What was gathered.

    Attributes:
        files: per layer.
        tokens: that they are made of.
        source: of the text.
        looks: what was seen at every doubling, when it was to stop by itself.
        enough: whether it stopped because they were enough; None when that was not asked.
    """

    files: dict[int, Path]
    tokens: int
    source: str
    looks: tuple[Look, ...] = field(default=())
    enough: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": sorted(self.files),
            "files": [str(self.files[layer]) for layer in sorted(self.files)],
            "tokens": self.tokens,
            "source": self.source,
            "looks": [look.as_dict() for look in self.looks],
            "enough": self.enough,
        }


def layers_of(lm: EditableModel, request: Request) -> tuple[int, ...]:
    """The blocks of a request.

    Raises:
        InputError: for one that the model does not have.
    """
    if request.layers is None:
        return settings_of(lm, "ENCORE").layers
    for layer in request.layers:
        if not 0 <= layer < lm.n_layers:
            raise InputError(f"Layer {layer} is not between 0 and {lm.n_layers - 1}, the last of {quoted(lm.name)}.")
    return tuple(sorted(set(request.layers)))


def tokens_of_request(lm: EditableModel, request: Request) -> int:
    """How many tokens, at most.

    Raises:
        InputError: when they are fewer than d_mlp.
    """
    usual = max(USUAL * lm.d_mlp, settings_of(lm, "ENCORE").statistics_tokens)
    n_tokens = request.tokens or (max(MOST * lm.d_mlp, usual) if request.enough else usual)
    if n_tokens < lm.d_mlp:
        raise InputError(
            f"{n_tokens} tokens say too little about the {lm.d_mlp} directions of this model's keys; "
            f"give at least {2 * lm.d_mlp}."
        )
    return n_tokens


# -- what it costs -----------------------------------------------------------------------------------------------------


def cost(lm: EditableModel, request: Request) -> Cost:
    """What gathering would take, from running a batch or two of drawn tokens; nothing is fetched, sampled or kept.

    Raises:
        InputError: as `gather`, as far as that can be seen.
    """
    check_source(request.source)
    layers, n_tokens = layers_of(lm, request), tokens_of_request(lm, request)
    per_token = _seconds_per_token(lm, layers)
    # Sampling runs all blocks for each token by itself, without keys.
    sampling = n_tokens * _seconds_per_sampled_token(lm) if request.source == SAMPLED else 0.0
    # As many are there as files with this many tokens and any text: what the text will be is not known yet.
    label = {SAMPLED: "sampled from the model", BUNDLED: "bundled sample"}.get(request.source, request.source)
    there = {
        one.layer
        for one in stored_statistics.stored(lm.texts_key)
        if one.source in (label, f"text {Path(label).name}") and one.file.stem.endswith(f"-{n_tokens}")
    }
    missing = tuple(layer for layer in layers if layer not in there)
    return Cost(
        layers=layers,
        tokens=n_tokens,
        seconds=(n_tokens * per_token + sampling) if missing else 0.0,
        sampling_seconds=sampling if missing else 0.0,
        memory_bytes=memory_bytes(lm.d_model, lm.d_mlp, len(layers), request.enough),
        disk_bytes=disk_bytes(lm.d_mlp, len(missing)),
        kept_bytes=len(layers) * lm.d_mlp**2 * 4,
        missing=missing,
    )


def memory_bytes(d_model: int, d_mlp: int, n_layers: int, enough: bool) -> int:
    """Memory that gathering takes beside the loaded model: sums in float64, a product, keys, and what a look needs."""
    keys = SEQUENCES * WINDOW * (n_layers * d_mlp + 8 * d_model) * 4
    return n_layers * d_mlp**2 * 8 + 4 * d_mlp**2 + keys + (3 * 8 * d_mlp**2 if enough else 0)


def disk_bytes(d_mlp: int, n_layers: int) -> int:
    """Disk that gathering takes: the result, and sums that are written beside those of before."""
    return n_layers * d_mlp**2 * (4 + 2 * 8)


def _seconds_per_token(lm: EditableModel, layers: Sequence[int]) -> float:
    length = min(WINDOW, lm.max_length)
    draw = torch.Generator().manual_seed(0)
    n_vocab = lm.model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(n_vocab, (SEQUENCES, length), generator=draw).tolist()
    # The first batch finds libraries cold.
    sums = KeySums(lm, layers, [[ids[0][:16]], ids])
    sums.step()
    began = time.perf_counter()
    sums.step()
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    return (time.perf_counter() - began) / (SEQUENCES * length)


def _seconds_per_sampled_token(lm: EditableModel) -> float:
    ids = torch.ones((PASSAGES, 8), dtype=torch.long, device=lm.device)
    n_new = 6

    def sample(n: int) -> float:
        began = time.perf_counter()
        with lm.lock, torch.no_grad():
            lm.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n,
                min_new_tokens=n, pad_token_id=lm.tokenizer.pad_token_id,
            )  # fmt: skip
        return time.perf_counter() - began

    sample(1)
    return sample(n_new) / (n_new * PASSAGES)


def shortages(needed: Cost, device: torch.device) -> list[str]:
    """What there is too little of, one line each."""
    lines = []
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    disk = shutil.disk_usage(data_folder()).free
    if needed.memory_bytes > memory:
        lines.append(
            f"Key statistics of {len(needed.layers)} layers need {needed.memory_bytes / 1e9:.1f} GB of memory on "
            f"{device}, which has {memory / 1e9:.1f} GB free; gather fewer layers at a time (--layers)."
        )
    if needed.disk_bytes > disk:
        lines.append(
            f"Key statistics of {len(needed.layers)} layers need {needed.disk_bytes / 1e9:.1f} GB of disk while they "
            f"are gathered, and {data_folder()} has {disk / 1e9:.1f} GB free; make room, or set ENCORE_HOME."
        )
    return lines


# -- gathering ---------------------------------------------------------------------------------------------------------


def gather(
    lm: EditableModel,
    request: Request,
    tell: Tell = lambda what, done, total: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    save_seconds: float = SAVE_SECONDS,
) -> Result:
    """Gather what is asked for and let edits of this model use it. What is there already is not gathered again.

    Args:
        lm: the model of the request, with its base weights.
        request: what to gather.
        tell: told of what is done.
        stop: looked at between batches; when it says so, the sums are saved and `texts.Interrupted` is raised.
        save_seconds: see `SAVE_SECONDS`.

    Raises:
        InputError: unknown source, layer or text, a text that is too short, a hub that cannot be reached, too little
            disk, or another process that gathers statistics of this model.
        Interrupted: see `stop`.
    """
    layers, n_tokens = layers_of(lm, request), tokens_of_request(lm, request)
    with _only_one(lm):
        text = text_of(lm, request.source, n_tokens, _of_share(tell), stop)
        windows = windows_of(lm, text.content, n_tokens)
        check_length(lm, windows)
        work = _Work(lm, layers, windows, text.content, text.source, request.enough, n_tokens)
        result = work.run(tell, stop, save_seconds)
        stored_statistics.note_model(lm.texts_key, lm.name)
        stored_statistics.choose(lm.texts_key, result.files)
    log.info("Key statistics of layers %s: %d tokens of %s.", list(layers), result.tokens, result.source)
    return result


def _of_share(tell: Tell) -> Progress:
    return lambda what, share: tell(what, int(1000 * share), 1000)


def _only_one(lm: EditableModel):
    """Two processes that gather the same would overwrite each other's sums."""
    folder = stored_statistics.folder_of(lm.texts_key)
    file = folder / ".gathering.lock"
    lock = FileLock(file, timeout=0)
    try:
        with writing(file):
            folder.mkdir(parents=True, exist_ok=True)
            return lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Statistics of {quoted(lm.name)} are being gathered by another process; wait for it, or stop it."
        ) from error


class _Work:
    """One gathering: the batches, where to look, what is saved.

    Its identity, and with it the names of its files, follows from the model, the text and the request.
    """

    def __init__(
        self,
        lm: EditableModel,
        layers: Sequence[int],
        windows: list[list[int]],
        content: str,
        source: str,
        enough: bool,
        asked: int,
    ):
        self.lm, self.source, self.enough, self.asked = lm, source, enough, asked
        # Statistics that stop by themselves leave held-out text out, so they are others than those of the same text.
        self.digest = digest_of(f"{content}\0enough" if enough else content)
        held = _held_out(windows) if enough else []
        self.held_out = [windows[place] for place in held]
        kept = [window for place, window in enumerate(windows) if place not in set(held)]
        self.ends: list[int] = []
        batches: list[list[list[int]]] = []
        for part in _parts(kept, lm.d_mlp) if enough else [kept]:
            batches += in_batches(part)
            self.ends.append(len(batches))
        self.batches = batches
        self.layers = tuple(layers)
        self.looks: list[Look] = []

    def run(self, tell: Tell, stop: Callable[[], bool], save_seconds: float) -> Result:
        wanted = {layer: self._file(layer, self.asked) for layer in self.layers}
        there = {layer for layer, file in wanted.items() if file.is_file()}
        missing = [layer for layer in self.layers if layer not in there]
        tokens = self.asked
        if missing:
            self._check_disk(len(missing))
            sums = KeySums(self.lm, missing, self.batches)
            self._advance(sums, tell, stop, save_seconds)
            tokens = sums.n_tokens
            for layer, C0 in sums.moments().items():
                stored_statistics.save(wanted[layer], C0, self.source, tokens, [look.as_dict() for look in self.looks])
            self._partial(missing).unlink(missing_ok=True)
        else:
            one = next(one for one in stored_statistics.stored(self.lm.texts_key) if one.file in wanted.values())
            tokens, self.looks = one.tokens, [Look.from_dict(look) for look in one.looks]
        return Result(wanted, tokens, self.source, tuple(self.looks), settled(self.looks) if self.enough else None)

    def _advance(self, sums: KeySums, tell: Tell, stop: Callable[[], bool], save_seconds: float) -> None:
        partial = self._partial(sums.layers)
        notes = sums.resume(partial) or {}
        self.looks = [Look.from_dict(look) for look in notes.get("looks", [])]
        if sums.position:
            log.info("Going on after %d of %d tokens.", sums.n_tokens, sums.total)
        probe = Probe(self.lm, sums.layers, self.held_out) if self.enough else None

        def save() -> float:
            began = time.monotonic()
            sums.save(partial, looks=[look.as_dict() for look in self.looks])
            return time.monotonic() - began

        last, pause = time.monotonic(), save_seconds
        tell("Gathering key statistics", sums.n_tokens, sums.total)
        while not self._finished(sums, probe):
            if stop():
                save()
                raise Interrupted
            sums.step()
            tell("Gathering key statistics", sums.n_tokens, sums.total)
            if time.monotonic() - last >= pause and sums.position < len(self.batches):
                pause = max(save_seconds, SAVE_SHARE * save())
                last = time.monotonic()

    def _finished(self, sums: KeySums, probe: Probe | None) -> bool:
        """Whether no batch is left, or there have been enough; looks when the tokens have doubled."""
        if probe is not None and sums.position in self.ends and sums.n_tokens >= self.lm.d_mlp:
            if not self.looks or self.looks[-1].tokens < sums.n_tokens:
                self.looks.append(probe.look(sums))
                log.info("After %d tokens: disturbance %s.", sums.n_tokens, self.looks[-1].disturbance)
            if settled(self.looks):
                return True
        return sums.position == len(self.batches)

    def _file(self, layer: int, tokens: int) -> Path:
        return stored_statistics.file_of(self.lm.texts_key, layer, self.digest, tokens)

    def _partial(self, layers: Sequence[int]) -> Path:
        decisive = [self.digest, self.asked, sorted(layers), len(self.batches), str(self.lm.dtype)]
        name = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
        return stored_statistics.folder_of(self.lm.texts_key) / f"partial-{name}.safetensors"

    def _check_disk(self, n_layers: int) -> None:
        needed = disk_bytes(self.lm.d_mlp, n_layers)
        free = shutil.disk_usage(data_folder()).free
        if needed > free:
            raise InputError(
                f"Key statistics of {n_layers} layers need {needed / 1e9:.1f} GB of disk while they are gathered, and "
                f"{data_folder()} has {free / 1e9:.1f} GB free; make room, gather fewer layers, or set ENCORE_HOME."
            )


def _held_out(windows: Sequence[list[int]]) -> list[int]:
    """Places of the windows that are held out: one of ten, spread over the text, until there are enough tokens."""
    found, total = [], 0
    for place in range(0, len(windows), HELD_OUT_SHARE):
        if total >= HELD_OUT_TOKENS:
            break
        found.append(place)
        total += len(windows[place])
    return found


def _parts(windows: Sequence[list[int]], d_mlp: int) -> list[list[list[int]]]:
    """Windows in the text's order, parted where the tokens have doubled."""
    parts: list[list[list[int]]] = [[]]
    ends = stages(d_mlp, sum(map(len, windows)))
    total = 0
    for window in windows:
        if total >= ends[len(parts) - 1]:
            parts.append([])
        parts[-1].append(window)
        total += len(window)
    return parts


class Probe:
    """Keys by which to see whether statistics are enough: of facts, and of text that is held out."""

    def __init__(self, lm: EditableModel, layers: Sequence[int], held_out: Sequence[list[int]]):
        self.lm = lm
        settings = settings_of(lm, "MEMIT")  # without a norm constraint, so that C0 bears all of it
        self.lambda_p, self.lambda_n = settings.lambda_p, settings.lambda_n
        self.device = torch.device("cpu") if lm.device.type == "mps" else lm.device
        self.text = _keys_of_text(lm, layers, held_out)
        self.facts = _keys_of_facts(lm, sorted(layers))

    def look(self, sums: KeySums) -> Look:
        found = {}
        for layer, total in sums.sums.items():
            C0 = (total / sums.n_tokens).to(self.device)
            K, text = (keys[layer].to(self.device) for keys in (self.facts, self.text))
            found[layer] = disturbance(C0, K, text, self.lambda_p, self.lambda_n)
        return Look(sums.n_tokens, found)


def _keys_of_text(lm: EditableModel, layers: Sequence[int], windows: Sequence[list[int]]) -> dict[int, torch.Tensor]:
    """Keys of every token of some windows: per layer (d_mlp, n_tokens) float32."""
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for rows in in_batches(windows):
        for layer, K in keys_of(lm, layers, rows):
            found[layer].append(K.cpu())
    return {layer: torch.cat(parts).T for layer, parts in found.items()}


def _keys_of_facts(lm: EditableModel, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Keys of some bundled facts in their plain prompts: per layer (d_mlp, n_facts)."""
    facts = []
    for fact in read_facts("bundled"):
        try:
            encode_fact(lm, fact)
        except InputError:  # longer than the model's context
            continue
        facts.append(fact)
        if len(facts) == PROBE_FACTS:
            break
    found = {}
    with lm.lock:
        reader = KeyReader(lm, facts, (), layers)
        for layer, above in zip(layers, [*layers[1:], None], strict=True):
            found[layer] = reader.keys(layer).float().cpu()
            if above is not None:
                reader.advance(layer, above)
    return found
