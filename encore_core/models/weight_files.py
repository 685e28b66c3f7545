"""The files with a model's weights: which ones are read, what their headers say, and whether all numbers are finite.

Everything except the last follows from headers of a few kilobytes. The numbers are read once, tensor by tensor. If the
model was loaded in the format of its files, its tensors are memory-mapped; then checking them takes one reading of the
disk, and no memory that is not released at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from encore_core.errors import InputError, first_line, quoted
from encore_core.models.device_map import whole_state_dict

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The number formats of plain weights, by their names in safetensors headers. Weights in all other formats are
quantised: they need scales or codes beside them."""


@dataclass(frozen=True)
class Stored:
    """Where a weight is stored.

    Attributes:
        file: the file that holds it.
        dtype: as the file's header calls it ("F32", "I8").
        n_weights: how many numbers it has.
    """

    file: Path
    dtype: str
    n_weights: int


def stored_weights(name: str, folder: Path) -> dict[str, Stored]:
    """Every weight in the files that transformers would read, from their headers.

    Args:
        name: the model's name in messages.
        folder: of the model.

    Raises:
        InputError: when a file is missing, damaged or a pointer to another, or two files hold the same weight.
    """
    found: dict[str, Stored] = {}
    for file in _files(name, folder):
        for key, entry in _header(name, file).items():
            if key in found:
                raise InputError(
                    f"Model {quoted(name)}: weight {key} is in {found[key].file.name} and in {file.name}, and nothing "
                    "says which one counts; save the whole model again."
                )
            found[key] = entry
    return found


def check_numbers(
    name: str, model: nn.Module, stored: Mapping[str, Stored], tell: Callable[[str, float], None]
) -> None:
    """Check every number of a loaded model.

    Args:
        name: its name in messages.
        model: with its weights.
        stored: where they come from, from `stored_weights`; if empty, messages name no file.
        tell: called with the progress.

    Raises:
        InputError: for a weight that is stored quantised, or has a number that is not finite.
    """
    n_tensors = len(model.state_dict())
    for number, (key, tensor) in enumerate(whole_state_dict(model)):
        tell("Looking through the weights", number / n_tensors)
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        place = _place_of(key, stored)
        where = f" in {place.file.name}" if place else ""
        if place and place.dtype not in FORMATS:
            raise InputError(
                f"Model {quoted(name)}: weight {key} is stored as {place.dtype}{where}, so it is quantised and cannot "
                "take an update; use the unquantised original, with --dtype bfloat16 to save memory."
            )
        # One pass without a copy, where isfinite() makes two copies; a NaN anywhere is both smallest and largest.
        ends = torch.stack(torch.aminmax(tensor.detach()))
        if not bool(torch.isfinite(ends).all()):
            raise InputError(
                f"Model {quoted(name)}: weight {key}{where} has numbers that are not finite (NaN or infinite), so "
                "nothing can be computed with it; copy the file again, or use an earlier checkpoint."
            )
    tell("Looking through the weights", 1.0)


def usual_format(stored: Mapping[str, Stored]) -> torch.dtype | None:
    """The format of most numbers; None if it is not in `FORMATS`."""
    sizes: dict[str, int] = {}
    for entry in stored.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.n_weights
    return FORMATS.get(max(sizes, key=sizes.__getitem__)) if sizes else None


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is the pointer that Git LFS leaves in place of a large file that was not fetched."""
    with file.open("rb") as content:
        return content.read(len(LFS_POINTER)) == LFS_POINTER


def lfs_pointer(name: str, file: str) -> InputError:
    """The error for a model with a file that is such a pointer."""
    return InputError(
        f"Model {quoted(name)}: {file} is a Git LFS pointer and not the file itself; run git lfs pull in its "
        "folder, or download it."
    )


def some_of(names: Iterable[str]) -> str:
    """ "a is", "a and b are", "a, b and 3 more are" — enough to know where to look."""
    names = sorted(names)
    shown = names if len(names) <= 2 else [f"{names[0]}, {names[1]}", f"{len(names) - 2} more"]
    return f"{' and '.join(shown)} {'is' if len(names) == 1 else 'are'}"


def _files(name: str, folder: Path) -> list[Path]:
    """The files that transformers reads: the one with the usual name, or else those that the index names."""
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.is_file() or single.is_symlink():
        return [single]
    if not index.is_file():
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        raise InputError(
            f"Model {quoted(name)}: {folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}, under which weights are "
            f"looked for; {some_of(others)} there. Save the whole model again."
        )
    if is_lfs_pointer(index):
        raise lfs_pointer(name, index.name)
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = sorted(set(content["weight_map"].values()))
        outside = [file for file in shards if not file or PurePosixPath(file).is_absolute() or ".." in Path(file).parts]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        unnamed = isinstance(error, KeyError | AttributeError | TypeError)
        reason = "it has no weight_map of names" if unnamed else first_line(error)
        raise InputError(f"Model {quoted(name)}: {INDEX_FILE} cannot be read ({reason}); copy it again.") from error
    if outside or not shards:
        named = f"{quoted(outside[0])}, which is not a file of its folder" if outside else "no file with weights"
        raise InputError(f"Model {quoted(name)}: {INDEX_FILE} names {named}; copy the folder again.")
    if not isinstance(content.get("metadata"), dict):
        raise InputError(
            f'Model {quoted(name)}: {INDEX_FILE} has no "metadata", without which transformers does not read it; add '
            '"metadata": {} to it.'
        )
    files = [folder / file for file in shards]
    missing = [file.name for file in files if not file.is_file() and not file.is_symlink()]
    if missing:
        raise InputError(
            f"Model {quoted(name)}: {some_of(missing)} missing in {folder}, of {len(shards)} files with weights; copy "
            "the folder again."
        )
    return files


def _header(name: str, file: Path) -> dict[str, Stored]:
    """The weights listed in a file's header; none is read."""
    if not file.is_file():
        raise InputError(
            f"Model {quoted(name)}: {file.name} is a link to a file that is not there; copy the folder again, with "
            "what its links lead to (cp -rL)."
        )
    try:
        if is_lfs_pointer(file):
            raise lfs_pointer(name, file.name)
        if not file.stat().st_size:
            raise OSError("it is empty")
        with safe_open(file, framework="pt") as content:
            slices = {key: content.get_slice(key) for key in content.keys()}  # noqa: SIM118 (no mapping)
            return {
                key: Stored(file, part.get_dtype(), torch.Size(part.get_shape()).numel())
                for key, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Model {quoted(name)}: the file {file.name} is damaged ({first_line(error)}); copy it again."
        ) from error


def _place_of(key: str, stored: Mapping[str, Stored]) -> Stored | None:
    """Where a weight of a model is stored; its name in the file may lack a prefix, or have one more.

    Returns:
        None for a weight that no file has under this name: one that is tied to another, or combined from several.
    """
    if key in stored:
        return stored[key]
    shorter = key.partition(".")[2]
    if shorter in stored:
        return stored[shorter]
    longer = [other for other in stored if other.endswith(f".{key}")]
    return stored[longer[0]] if len(longer) == 1 else None
