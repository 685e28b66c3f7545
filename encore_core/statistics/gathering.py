"""Gather key statistics on request, and continue after an interruption.

    request = Request(model="smollm2-135m", source="wikitext", enough=True)
    lm = load_model(request.model)
    print(cost(lm, request))
    result = gather(lm, request, progress)       # edits of this model use them from now on

Sums are saved from time to time. After an interruption, by Ctrl-C or SIGKILL, the same request continues. The batches
and their order follow from the request alone, so the sums end the same as without an interruption.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from encore_core.editing import gradient_moments, stored_statistics
from encore_core.editing.covariance import KeySums, check_length, filename_digest, in_batches, windows_of
from encore_core.errors import InputError, quoted
from encore_core.models.editable import EditableModel, Progress
from encore_core.statistics.convergence import Look, settled, stages
from encore_core.statistics.cost import check_disk
from encore_core.statistics.request import Request, layers_of, tokens_of_request
from encore_core.statistics.sufficiency import Probe, places_held_out
from encore_core.statistics.texts import Interrupted, text_of
from encore_core.storage import writing

log = logging.getLogger(__name__)

SAVE_SECONDS, SAVE_SHARE = 30.0, 10
"""Seconds between saves of the sums, and how many times longer than a save the pause must be at least."""

Tell = Callable[[str, int, int], None]
"""`tell(what, done, total)`: what is being done, and how many tokens are done, of how many."""


@dataclass(frozen=True)
class Result:
    """What was gathered.

    Attributes:
        files: by layer.
        tokens: how many tokens they are made from.
        source: of the text.
        looks: the measurements at every doubling, if gathering was to stop by itself.
        enough: whether the statistics were found to be enough; None if that was not asked.
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


def gather(
    lm: EditableModel,
    request: Request,
    tell: Tell = lambda what, done, total: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    save_seconds: float = SAVE_SECONDS,
) -> Result:
    """Gather statistics and let edits of this model use them. Existing ones are not gathered again.

    Args:
        lm: the model of the request, with its base weights.
        request: what to gather.
        tell: called with the progress.
        stop: called between batches; when it returns True, the sums are saved and `texts.Interrupted` is raised.
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
        _gather_gradients(lm, result, windows, tell)
        stored_statistics.note_model(lm.texts_key, lm.name)
        stored_statistics.choose(lm.texts_key, result.files)
    log.info("Key statistics of layers %s: %d tokens of %s.", list(layers), result.tokens, result.source)
    return result


def _gather_gradients(lm: EditableModel, result: Result, windows: Sequence[list[int]], tell: Tell) -> None:
    """F beside each layer's C0, from the beginning of the same text; short, so that it is not saved in between."""
    beside = {layer: gradient_moments.file_beside(file) for layer, file in result.files.items()}
    missing = [layer for layer, file in beside.items() if gradient_moments.load(file, lm.d_model) is None]
    if not missing:
        return
    some, total = [], 0
    for window in windows:
        if total >= gradient_moments.n_tokens(lm.d_model):
            break
        some.append(window)
        total += len(window)
    with lm.matrices_replaced({}):
        found = gradient_moments.collect(
            lm, missing, some, lambda what, share: tell(what, round(share * result.tokens), result.tokens)
        )
    for layer, F in found.items():
        gradient_moments.save(beside[layer], F, result.source, total)


def _of_share(tell: Tell) -> Progress:
    return lambda what, share: tell(what, int(1000 * share), 1000)


def _only_one(lm: EditableModel):
    """A lock, because two processes that gather the same would overwrite each other's sums."""
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
    """One gathering: its batches, when to look, what is saved.

    Its identity, and so the names of its files, follow from the model, the text and the request.
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
        # Gathering that stops by itself leaves out held-out text, so its statistics differ from others of this text.
        self.digest = filename_digest(f"{content}\0enough" if enough else content)
        held = places_held_out(windows) if enough else []
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
        heads = {layer: stored_statistics.read_head(file) for layer, file in wanted.items() if file.is_file()}
        there = {layer: head for layer, head in heads.items() if head is not None and head.d_mlp == self.lm.d_mlp}
        missing = [layer for layer in self.layers if layer not in there]
        tokens = self.asked
        if missing:
            check_disk(self.lm.d_mlp, len(missing))
            sums = KeySums(self.lm, missing, self.batches)
            self._advance(sums, tell, stop, save_seconds)
            tokens = sums.n_tokens
            for layer, C0 in sums.moments().items():
                stored_statistics.save(wanted[layer], C0, self.source, tokens, [look.as_dict() for look in self.looks])
            self._partial(missing).unlink(missing_ok=True)
        else:
            one = there[self.layers[0]]
            tokens, self.looks = one.tokens, [Look.from_dict(look) for look in one.looks]
        return Result(wanted, tokens, self.source, tuple(self.looks), settled(self.looks) if self.enough else None)

    def _advance(self, sums: KeySums, tell: Tell, stop: Callable[[], bool], save_seconds: float) -> None:
        partial = self._partial(sums.layers)
        notes = sums.resume(partial) or {}
        self.looks = [Look.from_dict(look) for look in notes.get("looks", [])]
        if sums.position:
            log.info("Continuing after %d of %d tokens.", sums.n_tokens, sums.total)
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
        """Whether no batch is left, or the statistics are enough; takes a look when the tokens have doubled."""
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


def _parts(windows: Sequence[list[int]], d_mlp: int) -> list[list[list[int]]]:
    """Windows in the text's order, divided where the tokens have doubled."""
    parts: list[list[list[int]]] = [[]]
    ends = stages(d_mlp, sum(map(len, windows)))
    total = 0
    for window in windows:
        if total >= ends[len(parts) - 1]:
            parts.append([])
        parts[-1].append(window)
        total += len(window)
    return parts
