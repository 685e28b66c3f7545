"""The check of a model: whether it can be edited here, at what cost, and what is known about it.

check = check_model("gpt2-xl")         # from its files: nothing is loaded, and nothing fetched but its configuration
print(check.problems)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encore_core.editing import gradient_moments, stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, filename_digest, read_text
from encore_core.errors import InputError
from encore_core.methods import Settings, lengths_of, settings_for
from encore_core.model_rows import find_model_row
from encore_core.models.catalogue import Progress, Source, find_source
from encore_core.models.checkpoint import read_config, read_tokenizer
from encore_core.models.device_map import BALANCED, choose_device, choose_dtype, free_memory, room_for_weights
from encore_core.models.families import FAMILIES, text_config
from encore_core.models.inspection import Inspection, inspect_files
from encore_core.models.memory import MemoryEstimate, Sizes, estimate_of, gigabytes, least_needed, shortage
from encore_core.models.speed import rough_seconds
from encore_core.models.start_token import foretold
from encore_core.statistics.request import USUAL
from encore_core.tuned_rows import Shape, find_row


@dataclass(frozen=True)
class LayerStatistics:
    """The key statistics of an edited layer.

    Attributes:
        layer: the block.
        used: the statistics that edits use; None if the first edit will gather them from the bundled sample.
        others: other stored statistics.
    """

    layer: int
    used: stored_statistics.Stored | None
    others: tuple[stored_statistics.Stored, ...]


@dataclass(frozen=True)
class ModelCheck:
    """Whether a model can be edited here, and at what cost.

    Attributes:
        name: as the user gave it.
        family: the family's name; `known` is True if it has a row, and False if it was found from its structure.
        model_type, n_layers, d_model, d_mlp, n_vocab, n_weights: its shape.
        device, dtype: where and how it would be loaded.
        memory: needed, by part.
        free: bytes free on that device.
        settings: of ENCORE on this model.
        for_thousands: the same for thousands of edits; None where none are known.
        source: where these come from.
        statistics: one entry per edited layer.
        lacking_for_thousands: layers that only `for_thousands` edits, and whose statistics the first edit will gather.
        statistics_tokens, statistics_seconds, statistics_bytes: of a usual gathering: tokens, rough time, disk kept.
        start_token: the token in front of every text, in words, see `start_token.foretold`.
        problems: why it cannot be edited here, one line each.
        notes: what one should know.
    """

    name: str
    family: str
    known: bool
    model_type: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_vocab: int
    n_weights: int
    device: str
    dtype: str
    memory: MemoryEstimate
    free: int
    settings: Settings
    for_thousands: Settings | None
    source: str
    statistics: tuple[LayerStatistics, ...]
    lacking_for_thousands: tuple[int, ...]
    statistics_tokens: int
    statistics_seconds: float
    statistics_bytes: int
    start_token: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {
            "standing": self.settings.standing,
            "memory": self.memory.parts | {"total": self.memory.total},
            "statistics": [
                {
                    "layer": one.layer,
                    "used": one.used and one.used.as_dict(),
                    "others": [other.as_dict() for other in one.others],
                }
                for one in self.statistics
            ],
        }


def check_model(
    name: str, device: str | None = None, dtype: str | None = None, progress: Progress | None = None
) -> ModelCheck:
    """Check a model: its configuration, and its files as far as they are on this machine (see `inspection`).

    The embedded one is unpacked if necessary. If a model does not fit into memory, which is one of `problems`, only its
    configuration is read.

    Args:
        name, device, dtype: as for `editable.load_model`.
        progress: called while its weights are read.

    Raises:
        InputError: as `editable.load_model`, with the same message, except for too little memory.
    """
    place, number_format = choose_device(device), choose_dtype(dtype)
    source = find_source(name, lambda what, share: None)
    config = read_config(name, source)
    sizes = Sizes.of_config(config, name)
    n_vocab = text_config(config).vocab_size
    shape = {
        "model_type": config.model_type, "n_layers": sizes.n_layers, "d_model": sizes.d_model, "n_vocab": n_vocab,
    }  # fmt: skip
    # A row tuned on other weights is marked untested, if the fingerprint of these is known.
    settings = settings_for("ENCORE", **shape, fingerprint=stored_statistics.fingerprint_of(name))
    memory = estimate_of(sizes, number_format, settings, device_type=place.type)
    least = least_needed(config, sizes, number_format, place.type)
    free = free_memory(place) if device != BALANCED else sum(room_for_weights(least.editing).values())
    where = BALANCED if device == BALANCED else str(place)
    short = shortage(name, least, free, number_format, where)
    found = inspect_files(name, source, sizes, number_format, progress) if short is None else Inspection(None, ())
    if found.refusal is not None:
        raise InputError(found.refusal)
    family = FAMILIES.get(config.model_type)
    tokens = max(settings.statistics_tokens, USUAL * sizes.d_mlp)
    return ModelCheck(
        name=name,
        family=family.models if family else config.model_type,
        known=family is not None,
        device=where,
        dtype=str(number_format).removeprefix("torch."),
        d_mlp=sizes.d_mlp,
        n_weights=sizes.n_weights,
        memory=memory,
        free=free,
        settings=settings,
        for_thousands=_for_thousands(shape, settings.method),
        source=_source(settings, shape),
        statistics=_statistics_of(name, settings),
        lacking_for_thousands=_lacking(name, shape, settings),
        statistics_tokens=tokens,
        statistics_seconds=rough_seconds(
            sizes, settings.layers, tokens, gradient_moments.n_tokens(sizes.d_model), number_format, place
        ),
        statistics_bytes=len(settings.layers) * sizes.d_mlp**2 * 4,
        start_token=_start_token(name, source, shape) if short is None else "not looked at",
        problems=(*([short] if short is not None else []), *_not_to_be_had(source)),
        notes=(*found.notes, *_notes(memory, free, settings, family is not None), *_to_fetch(source)),
        **shape,
    )


def _start_token(name: str, source: Source, shape: Mapping[str, Any]) -> str:
    row = find_model_row(**shape)
    return foretold(
        read_tokenizer(name, source),
        of_row=row and row.start_token,
        folder=Path(source),
        fingerprint=stored_statistics.fingerprint_of(name),
    )


def _for_thousands(shape: Mapping[str, Any], method: str) -> Settings | None:
    if "thousands" not in lengths_of(Shape(**shape), method):
        return None
    return settings_for(method, **shape, overrides={"tuned_for": "thousands"})


def _source(settings: Settings, shape: Mapping[str, Any]) -> str:
    """Where the settings of ENCORE come from."""
    tuned, published = find_row(Shape(**shape), "ENCORE"), find_model_row(**shape)
    if tuned is not None and tuned.in_force:
        when = str(tuned.evidence.get("date", ""))[:10]
        return f"encore tune, {when}" if settings.tuned else f"encore tune on other weights, {when}"
    return published.source if published else "defaults for any model"


def _statistics_of(name: str, settings: Settings) -> tuple[LayerStatistics, ...]:
    key = stored_statistics.key_of(name)
    there = stored_statistics.stored(key) if key else []
    bundled = filename_digest(read_text(SAMPLED_TEXT))
    rows = []
    for layer in settings.layers:
        found = [one for one in there if one.layer == layer]
        chosen = [one for one in found if one.chosen]
        default = [one for one in found if one.file.stem == f"layer{layer}-{bundled}-{settings.statistics_tokens}"]
        used = next(iter([*chosen, *default]), None)
        rows.append(LayerStatistics(layer, used, tuple(one for one in found if one is not used)))
    return tuple(rows)


def _lacking(name: str, shape: Mapping[str, Any], settings: Settings) -> tuple[int, ...]:
    """Layers without statistics that the settings for thousands of edits edit and these do not."""
    other = _for_thousands(shape, settings.method)
    found = _statistics_of(name, other) if other is not None else ()
    return tuple(one.layer for one in found if one.used is None and one.layer not in settings.layers)


def _not_to_be_had(source: Source) -> list[str]:
    """Why the weights of a hub model cannot be fetched here."""
    try:
        if source.hub is not None:
            source.hub.check_fetching()
    except InputError as error:
        return [str(error)]
    return []


def _to_fetch(source: Source) -> list[str]:
    if source.hub is None or not source.hub.to_fetch:
        return []
    return [f"Its weights will be fetched from the hub when it is first used: {gigabytes(source.hub.to_fetch)}."]


def _notes(memory: MemoryEstimate, free: int, settings: Settings, known: bool) -> list[str]:
    notes = []
    if memory.weights <= free < memory.total:
        notes.append(
            f"It can be loaded; editing 100 facts at a time may need {gigabytes(memory.total)}, and {gigabytes(free)} "
            "is free: use smaller batches."
        )
    if settings.standing == "untested":
        notes.append(
            "Its hyper-parameters are untested on it: look at the scores of a few edits first, or search with encore "
            "tune."
        )
    if not known:
        notes.append(
            "Its family has no row: its parts were found from its structure, and checked by running it if its weights "
            "are on this machine."
        )
    return notes
