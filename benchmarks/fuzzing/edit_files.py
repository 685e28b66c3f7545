"""Edits as a file: read, put on a tiny model, and taken by the server as an upload."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.recipes import RecipeTarget
from fuzzing.target import Broken, attempt

TENSOR_CHANGES = (
    "nan",
    "inf",
    "huge",
    "tiny",
    "zero",
    "short",
    "long",
    "flat",
    "half",
    "float",
    "whole",
    "drop",
    "copy",
)
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X")


class EditsTarget(RecipeTarget):
    """Recipes change what stands in a file that is whole, and mostly make its digest anew.

    A recipe has "base", one of the files to begin with; "put" and "drop", changes of its metadata as pairs of path and
    value, and as paths; "text", in place of the metadata as JSON; "tensors", pairs of a tensor's name and a change;
    "header", changes of the safetensors header; "bytes", pairs of a place and a byte; "cut", how long the file is;
    "stale", whether the digest is left as it was.
    """

    name = "edits"
    about = "the edits file: read, put on a tiny model, uploaded"
    modules = ("encore_core.editing.edit_file", "encore_core.editing.edit_file_values", "dashboard.parts.edit.files")
    keys = ("put", "drop", "tensors", "header", "bytes", "cut", "stale", "text", "base")
    words = ("batches", "edited", "fact", "norms", "settings", "layers", "seed", "prefixes", "steps", "nan")

    def setup(self, folder: Path) -> None:
        import tiny_models

        from dashboard.parts.edit import files
        from dashboard.server import limits
        from encore_core.editing import edit_file
        from encore_core.editing.session import EditSession

        self._files, self._module, self._limits = files, edit_file, limits
        self._file = folder / "fuzzed.safetensors"
        self._again = folder / "again.safetensors"
        self.lm = tiny_models.gpt2()
        text = tiny_models.statistics_text(folder)
        settings = tiny_models.DEFAULTS | {"lambda_n": 0.001, "steps": 2}

        def session(**values: Any) -> EditSession:
            return EditSession(self.lm, "ENCORE", settings=settings, statistics_text=text, **values)

        edited = session()
        edited.edit([tiny_models.CITIES[0]], known="edit")
        edited.edit(list(tiny_models.CITIES[1:]), known="edit")
        bare = session(keep_history=False)
        bare.edit(list(tiny_models.CITIES), known="edit")
        made = (edit_file.edit_file_of(edited), edit_file.edit_file_of(bare, tiny_models.CITIES))
        self._bases = [(json.loads(json.dumps(one.values)), one.tensors) for one in made]
        self._weights = tiny_models.Snapshot.of(self.lm)
        self._other, self._others = edited, {layer: m.clone() for layer, m in edited.matrices().items()}

    def recipes(self) -> list[Any]:
        values = self._bases[0][0]
        return [
            {"base": 0},
            {"base": 1},
            {"base": 0, "put": [[["norms", "0", "edited"], 1.0]]},
            {"base": 0, "put": [[["settings", "layers"], [1]]]},
            {"base": 0, "drop": [["batches", 1]]},
            {"base": 0, "tensors": [[next(iter(self._bases[0][1])), "nan"]]},
            {"base": 1, "tensors": [["matrix.0", "huge"]]},
            {"base": 0, "header": [[["0.z", "shape"], [32, 2]]]},
            {"base": 0, "bytes": [[5, 200]], "stale": True},
            {"base": 1, "cut": 100},
            {"base": 0, "text": json.dumps(values)[:-1]},
        ]

    # -- mutations -----------------------------------------------------------------------------------------------------

    def changed(self, recipe: Any, rng: random.Random) -> Any:
        """Most changes are made to what stands in the file, at places that there are."""
        if not isinstance(recipe, dict) or rng.random() < 0.15:
            return mutate.tree(recipe, rng, self.keys, self.words)
        values, tensors = self._bases[recipe.get("base") == 1]
        places = mutate.paths(values)[1:]
        what = rng.randrange(12)
        if what < 6:
            where = rng.choice(places)
            here = mutate.part(values, where)
            new = mutate.other(here, rng, self.words, [mutate.part(values, rng.choice(places))])
            self._add(recipe, "put", [list(where), new])
        elif what == 6:
            where = rng.choice(places)
            keys = ("x", "99", "0", "1", "steps", "known", "join", "", "method", "layers")
            self._add(recipe, "put", [[*where, rng.choice(keys)], rng.choice(mutate.VALUES)])
        elif what == 7:
            self._add(recipe, "drop", list(rng.choice(places)))
        elif what < 10:
            self._add(recipe, "tensors", [rng.choice(list(tensors)), rng.choice(TENSOR_CHANGES)])
        elif what == 10:
            where = rng.choice(("dtype", "shape", "data_offsets", None))
            new = rng.choice(DTYPES) if where == "dtype" else rng.choice(mutate.VALUES)
            if where in ("shape", "data_offsets") and rng.random() < 0.7:
                new = [rng.choice((0, 1, 2, 32, 64, -1, 2**40, 2**63)) for _ in range(rng.randrange(4))]
            name = rng.choice([*tensors, "__metadata__"])
            self._add(recipe, "header", [[name, where] if where else [name], new])
        else:
            self._add(recipe, "bytes", [rng.choice((rng.randrange(8), rng.randrange(30_000))), rng.randrange(256)])
            recipe["stale"] = rng.random() < 0.5
        return recipe

    @staticmethod
    def _add(recipe: dict[str, Any], name: str, change: Any) -> None:
        there = recipe.get(name)
        recipe[name] = [*(there if isinstance(there, list) else ())[-12:], change]

    # -- the file ------------------------------------------------------------------------------------------------------

    def file(self, recipe: Any) -> bytes:
        """The content of the file that a recipe makes."""
        recipe = recipe if isinstance(recipe, dict) else {}
        values, tensors = self._bases[recipe.get("base") == 1]
        values, tensors = json.loads(json.dumps(values)), dict(tensors)
        for where, new in pairs(recipe.get("put")):
            values = _tried(mutate.put, values, where, new)
        for where in _listed(recipe.get("drop")):
            values = _tried(mutate.drop, values, where)
        for name, change in pairs(recipe.get("tensors")):
            _change_tensor(tensors, name, change)
        text = recipe.get("text")
        text = text if isinstance(text, str) else json.dumps(values, ensure_ascii=False)
        text = text.encode("utf-8", "replace").decode()
        digest = "0" * 64 if recipe.get("stale") else self._module._digest(text, tensors)
        header: Any = {"__metadata__": {"format": self._module.FORMAT, "edits": text, "digest": digest}}
        body = b""
        for name, tensor in tensors.items():
            raw = bytes(tensor.contiguous().reshape(-1).view(_uint8()).numpy())
            offsets = [len(body), len(body) + len(raw)]
            header[name] = {"dtype": _DTYPE[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": offsets}
            body += raw
        for where, new in pairs(recipe.get("header")):
            header = _tried(mutate.put, header, where, new)
        told = json.dumps(header).encode()
        told += b" " * (-len(told) % 8)
        data = bytearray(struct.pack("<Q", len(told)) + told + body)
        for place, byte in pairs(recipe.get("bytes")):
            if isinstance(place, int) and isinstance(byte, int) and 0 <= place < len(data):
                data[place] = byte % 256
        cut = recipe.get("cut")
        return bytes(data[:cut] if isinstance(cut, int) and not isinstance(cut, bool) and cut >= 0 else data)

    # -- what has to hold ----------------------------------------------------------------------------------------------

    def try_recipe(self, recipe: Any) -> str:
        data = self.file(recipe)
        uploaded = attempt(lambda: self._files.session_of(data, self.lm))
        self._file.write_bytes(data)
        read = attempt(lambda: self._module.read_edit_file(self._file))
        if isinstance(read, InputError) and not isinstance(uploaded, InputError):
            raise Broken("an upload is taken that is not an edit file", read)
        if not isinstance(read, InputError):
            self._check_read(read, uploaded)
        if not isinstance(uploaded, InputError):
            self._check_session(uploaded)
        self._check_others()
        return "refused" if isinstance(read, InputError) or isinstance(uploaded, InputError) else "taken"

    def _check_read(self, edits: Any, uploaded: Any) -> None:
        for fact in edits.facts:
            if type(fact)(**fact.to_dict()) != fact:
                raise Broken("a fact made of its own values is another one", fact)
        matrices = attempt(lambda: edits.matrices_on(self.lm))
        if isinstance(matrices, InputError):
            return
        for layer, matrix in matrices.items():
            if not bool(matrix.isfinite().all()) or matrix.shape != self.lm.parameter(layer).shape:
                raise Broken("a matrix is taken that is not finite or of another shape", layer)
        if not isinstance(uploaded, InputError) and not same(matrices, uploaded.matrices()):
            raise Broken("a file gives other matrices on the command line than as an upload")

    def _check_session(self, session: Any) -> None:
        matrices = {layer: matrix.clone() for layer, matrix in session.matrices().items()}
        if session.n_edits != len(session.live_edits()):
            raise Broken("a session counts other edits than it has", session.n_edits)
        if not all(bool(matrix.isfinite().all()) for matrix in matrices.values()):
            raise Broken("a matrix of a session is not finite")
        for batch in session.history:
            self._check_report(batch.report)
        content = self._files.as_bytes(session)
        again = self._files.session_of(content, self.lm)
        reports = [[_told(batch.report) for batch in one.history] for one in (again, session)]
        if not same(again.matrices(), matrices) or reports[0] != reports[1]:
            raise Broken("a session written and read again is another one")
        while session.history:
            session.undo()
        if session.n_edits or any(not same_bits(m, self.lm.parameter(k)) for k, m in session.matrices().items()):
            raise Broken("undoing everything leaves something")

    def _check_report(self, report: Any) -> None:
        for pair in report.norms.values():
            if not all(math.isfinite(value) and value >= 0 for value in pair):
                raise Broken("a norm of a session is none", report.norms)
        if not all(math.isfinite(value) and value >= 0 for value in report.seconds.values()):
            raise Broken("seconds of a session are none", report.seconds)
        for item in report.edited:
            for value in (item.probability_before, item.probability_after, item.probability_bare):
                if value is not None and not 0 <= value <= 1.01:
                    raise Broken("a probability of a session is none", value)
            if item.target is None:
                continue
            if item.steps < 0:
                raise Broken("steps of a session are fewer than none", item.steps)
            series = {name: getattr(item.target, name) for name in ("loss", "nll", "kl", "decay", "probability")}
            if not all(math.isfinite(value) for values in series.values() for value in values):
                raise Broken("a figure of a search is not finite", series)
            if len({len(values) for values in series.values()}) > 1:
                raise Broken("figures of a search are of unequal length", {k: len(v) for k, v in series.items()})
        for line in (*report.notices, *report.seconds):
            if len(line.splitlines()) > 1:
                raise Broken("a notice of a session has several lines", line)

    def _check_others(self) -> None:
        if not self._weights.holds(self.lm):
            raise Broken("a file changes the model's own weights")
        if not same(self._other.matrices(), self._others):
            raise Broken("a file changes another session")


def _told(report: Any) -> str:
    """A batch's report as text, phases and layers in order; it holds tensors, which are not compared as they are."""
    return repr((report.edited, sorted(report.seconds.items()), sorted(report.norms.items()), report.notices))


def pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """The changes in a recipe that are pairs."""
    for one in _listed(value):
        if isinstance(one, list) and len(one) == 2:
            yield one[0], one[1]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tried(change: Any, tree: Any, where: Any, *values: Any) -> Any:
    """A tree with a change, or as it is where the change does not fit."""
    try:
        return change(tree, where, *json.loads(json.dumps(values)))
    except (KeyError, IndexError, TypeError, ValueError):
        return tree


def same(one: Any, other: Any) -> bool:
    """Whether two sets of matrices are equal, bit for bit."""
    return one.keys() == other.keys() and all(same_bits(one[layer], other[layer]) for layer in one)


def same_bits(one: Any, other: Any) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


def _uint8() -> Any:
    import torch

    return torch.uint8


_DTYPE = {"torch.float32": "F32", "torch.float64": "F64", "torch.float16": "F16", "torch.int64": "I64"}


def _change_tensor(tensors: dict[str, Any], name: Any, change: Any) -> None:
    """Change a tensor of a file, where there is one of this name."""
    if not isinstance(name, str) or name not in tensors or change not in TENSOR_CHANGES:
        return
    tensor = tensors[name].clone()
    if change in ("nan", "inf", "huge", "tiny"):
        value = {"nan": math.nan, "inf": -math.inf, "huge": 1e38, "tiny": 1e-44}[change]
        tensor = tensor if tensor.is_floating_point() else tensor.float()
        tensor.view(-1)[-1:] = value
        tensors[name] = tensor
    elif change == "zero":
        tensors[name] = tensor * 0
    elif change in ("short", "long"):
        tensors[name] = tensor[:-1].contiguous() if change == "short" else tensor.repeat(2, 1)
    elif change == "flat":
        tensors[name] = tensor.reshape(-1)
    elif change in ("half", "float", "whole"):
        tensors[name] = getattr(tensor, {"half": "half", "float": "float", "whole": "long"}[change])()
    elif change == "drop":
        del tensors[name]
    else:
        tensors[f"{name}.copy"] = tensor


TARGETS = (EditsTarget(),)
