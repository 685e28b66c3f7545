"""Statistics as others publish them: the import of `.npz` files."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.recipes import RecipeTarget
from fuzzing.target import Broken, attempt

DTYPES = ("<f4", "<f8", ">f4", ">f8", "<f2", "|f16", "<c8", "<i8", "|b1", "|O", "<U3", "|V4", "|S1", "<M8[s]", "|u1",
          "[('a', '<f4')]", "x", "<f4,<f4")  # fmt: skip
KINDS = ("moment", "gradients", "number", "zeros", "bytes", "text", "words", "pickle")
COUNT = {"name": "mom2.count", "kind": "number", "dtype": "<i8", "value": 1000}
MOMENT = {"name": "mom2.mom2", "kind": "moment", "dtype": "<f4", "scale": 1000.0}
GRADIENTS = {"name": "gradients.mom2", "kind": "gradients", "dtype": "<f8", "scale": 90.0}
PICKLE = b"cos\nsystem\n(S'true'\ntR."


class NpzTarget(RecipeTarget):
    """A file is imported, and then serves as the layer's statistics, or refused, and nothing has changed.

    A recipe has "entries": each with "name", "kind", "dtype", "shape", "scale", "value", "put" (places and values), and
    "header" in place of the one that numpy would write; "packed", "cut", "bytes" for the file as a whole; "single" for
    one array without an archive; "file", its name; "layer", as given or null.
    """

    name = "npz"
    about = "the import of statistics from .npz"
    modules = ("encore_core.statistics.npz", "encore_core.statistics.npz_arrays")
    keys = ("name", "kind", "dtype", "shape", "scale", "value", "put", "header", "packed", "cut", "bytes", "single",
            "file", "layer", "entries", "version", "times")  # fmt: skip
    words = (*DTYPES, *KINDS, "mom2.mom2", "mom2.count", "mom2", "count", "sample_size", "mom2.constructor",
             "gradients.mom2", "gradients.count", "text", "model",
             "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz")  # fmt: skip

    def setup(self, folder: Path) -> None:
        import numpy as np
        import tiny_models
        import torch

        from encore_core.editing import gradient_moments, stored_statistics
        from encore_core.statistics import npz

        self._numpy, self._torch, self._stored, self._npz = np, torch, stored_statistics, npz
        self._gradients = gradient_moments
        self.lm = tiny_models.gpt2()
        self._folder = folder / "npz"
        self._folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        self._moments = {
            kind: vectors @ vectors.T / vectors.shape[1]
            for kind, size in (("moment", self.lm.d_mlp), ("gradients", self.lm.d_model))
            for vectors in (rng.normal(size=(size, 3 * size)),)
        }

    def recipes(self) -> list[Any]:
        named = "transformer.h.1.mlp.c_proj_float32_mom2_100000.npz"
        more = [{"name": "mom2.constructor", "kind": "text", "value": "util.runningstats.SecondMoment()"},
                {"name": "sample_size", "kind": "number", "value": 100, "dtype": "<i8"}]  # fmt: skip
        return [
            {"entries": [MOMENT, COUNT, *more], "file": named, "layer": None},
            {"entries": [{**MOMENT, "name": "mom2", "dtype": "<f8", "scale": 1.0}], "file": "x.npz", "layer": 2},
            {"entries": [MOMENT, {**COUNT, "dtype": "<f8"}], "file": named, "layer": 0, "packed": True},
            {"entries": [{**MOMENT, "put": [[5, 1e30]]}, COUNT], "file": named},
            {"entries": [{**MOMENT, "shape": [64]}, COUNT], "file": named},
            {"entries": [MOMENT, {**COUNT, "kind": "pickle", "dtype": "|O"}], "file": named},
            {"entries": [MOMENT], "single": True, "file": named},
            {"entries": [MOMENT, COUNT], "file": named, "bytes": [[40, 3]], "cut": 900},
            {"entries": [{**MOMENT, "header": "{'descr': '<f4', 'fortran_order': True, 'shape': (64, 64), }"}],
             "file": named},
            {"entries": [MOMENT, COUNT, GRADIENTS, {**COUNT, "name": "gradients.count", "value": 90},
                         {"name": "text", "kind": "words", "value": "some text"},
                         {"name": "model", "kind": "words", "value": "0123456789abcdef"}], "file": named},
            {"entries": [MOMENT, {"name": "more", "kind": "zeros", "shape": [400000], "times": 10}], "packed": True,
             "file": named},
        ]  # fmt: skip

    # -- mutations -----------------------------------------------------------------------------------------------------

    def changed(self, recipe: Any, rng: random.Random) -> Any:
        """Half of the changes are made to a field of an entry, with a value that means something there."""
        entries = recipe.get("entries") if isinstance(recipe, dict) else None
        if not isinstance(entries, list) or not entries or rng.random() < 0.4:
            return mutate.tree(recipe, rng, self.keys, self.words)
        entry = rng.choice(entries)
        if not isinstance(entry, dict):
            return mutate.tree(recipe, rng, self.keys, self.words)
        field = rng.choice(("name", "kind", "dtype", "shape", "scale", "value", "put", "header", "version"))
        number = rng.choice((0, 1, -1, 0.5, 1e-310, 1e10, 1e38, 3e38, 1e300, 2**31, 2**63, float("nan"), float("inf")))
        shape = [rng.choice((0, 1, 2, 63, 64, 65, 4096, 2**20, 2**33, -1)) for _ in range(rng.randrange(4))]
        entry[field] = {
            "name": rng.choice(self.words),
            "kind": rng.choice(KINDS),
            "dtype": rng.choice(DTYPES),
            "shape": shape,
            "scale": number,
            "value": number,
            "put": [[rng.randrange(4096), number] for _ in range(rng.randrange(1, 3))],
            "header": rng.choice((
                f"{{'descr': {rng.choice(DTYPES)!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}",
                "{'descr': '<f4', 'fortran_order': True, 'shape': (64, 64), }", "{", "__import__('os')", "(" * 3000,
                "{'descr': [('mom2', 'O')], 'fortran_order': False, 'shape': (64, 64), }", "",
            )),
            "version": rng.choice((1, 2, 3, 0, 9)),
        }[field]  # fmt: skip
        return recipe

    # -- the file ------------------------------------------------------------------------------------------------------

    def file(self, recipe: dict[str, Any]) -> bytes:
        """The content of the file that a recipe makes."""
        entries = recipe.get("entries")
        entries = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
        if recipe.get("single"):
            data = bytearray(self._array(entries[0]) if entries else b"")
        else:
            packing = zipfile.ZIP_DEFLATED if recipe.get("packed") else zipfile.ZIP_STORED
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", packing) as archive:
                for entry in entries[:8]:
                    name = str(entry.get("name"))[:200].encode("ascii", "replace").decode().replace("\0", "0")
                    archive.writestr(f"{name}.npy", self._array(entry))
            data = bytearray(stream.getvalue())
        changes = recipe.get("bytes")
        for one in changes if isinstance(changes, list) else ():
            if isinstance(one, list) and len(one) == 2 and all(isinstance(v, int) for v in one) and data:
                data[one[0] % len(data)] = one[1] % 256
        cut = recipe.get("cut")
        return bytes(data[: cut if isinstance(cut, int) and not isinstance(cut, bool) and cut >= 0 else None])

    def _array(self, entry: dict[str, Any]) -> bytes:
        """A .npy file of an entry, with whatever header."""
        np, kind, shape = self._numpy, entry.get("kind"), _shape(entry.get("shape"))
        dtype = entry.get("dtype") if entry.get("dtype") in DTYPES else "<f8"
        if kind == "pickle":
            content, dtype, shape = PICKLE, "|O", shape if shape is not None else (1,)
        elif kind in ("bytes", "text"):
            content = str(entry.get("value")).encode("utf-8", "replace")[:10_000]
            shape, dtype = (), f"|S{max(1, len(content))}"
        elif kind == "words":
            words = str(entry.get("value"))[:200]
            content, shape, dtype = words.encode("utf-32-le", "replace"), (), f"<U{len(words)}"
        else:
            values = self._values(entry, kind, shape)
            shape = values.shape if shape is None else shape
            try:
                with np.errstate(all="ignore"):
                    content = values.astype(np.dtype(dtype)).tobytes()
            except (TypeError, ValueError, MemoryError, OverflowError):
                content = values.tobytes()
        times = entry.get("times")
        content *= times if isinstance(times, int) and 0 < times <= 1_000 and len(content) * times < 20_000_000 else 1
        header = entry.get("header")
        if not isinstance(header, str):
            header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
        version = int(_number(entry.get("version"), 1.0)) if entry.get("version") in (0, 1, 2, 3, 9) else 1
        told = header.encode("utf-8", "replace")[:60_000]
        told += b" " * (-(len(told) + 11) % 64) + b"\n"
        size = struct.pack("<H" if version < 2 else "<I", len(told))
        return b"\x93NUMPY" + bytes([version, 0]) + size + told + content

    def _values(self, entry: dict[str, Any], kind: Any, shape: tuple[int, ...] | None) -> Any:
        np = self._numpy
        if kind in ("moment", "gradients"):
            values = self._moments[kind] * _number(entry.get("scale"), 1.0)
            changes = entry.get("put")
            for one in changes if isinstance(changes, list) else ():
                if isinstance(one, list) and len(one) == 2 and isinstance(one[0], int):
                    place = one[0] % values.size
                    values.flat[place] = _number(one[1], 0.0)
                    values.T.flat[place] = values.flat[place]
            return values
        if kind == "zeros":
            size = int(np.prod(shape, dtype=float)) if shape and min(shape) >= 0 else 1
            return np.zeros(size if size <= 500_000 else 1)
        return np.array(_number(entry.get("value"), 1.0))

    # -- what has to hold ----------------------------------------------------------------------------------------------

    def try_recipe(self, recipe: Any) -> str:
        if not isinstance(recipe, dict):
            return "refused"
        name = str(recipe.get("file"))[:100].encode("ascii", "replace").decode()
        name = "".join(letter for letter in name if letter.isprintable() and letter != "/").strip(".") or "x"
        file, layer = self._folder / name, recipe.get("layer")
        layer = layer if type(layer) is int else None
        file.write_bytes(self.file(recipe))
        before = self._seen()
        try:
            found = attempt(lambda: self._npz.import_npz(self.lm, file, layer))
        finally:
            file.unlink()
        if isinstance(found, InputError):
            if self._seen() != before:
                raise Broken("a file of statistics that is refused leaves something", before)
            return "refused"
        self._check(found)
        self._stored.forget_choice(self.lm.fingerprint)
        found.file.unlink()
        self._gradients.file_beside(found.file).unlink(missing_ok=True)
        return "taken"

    def _seen(self) -> Any:
        folder = self._stored.folder_of(self.lm.fingerprint)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [name for name in names if name != "model.json"], self._stored.chosen(self.lm.fingerprint)

    def _check(self, found: Any) -> None:
        torch, d_mlp = self._torch, self.lm.d_mlp
        C0 = self._stored.load(found.file, d_mlp)
        if C0 is None or C0.dtype != torch.float32:
            raise Broken("imported statistics cannot be read again", found)
        if not bool(torch.isfinite(C0).all()):
            raise Broken("imported statistics are not finite", json.dumps(C0.flatten()[:9].tolist()))
        if not bool(torch.equal(C0, C0.T)) or bool((C0.diagonal() < 0).any()) or not bool(C0.any()):
            raise Broken("imported statistics are no second moment", C0.diagonal())
        F = self._gradients.load(self._gradients.file_beside(found.file), self.lm.d_model)
        if (F is not None) != found.gradients:
            raise Broken("imported gradients cannot be read again, or are another file's", found)
        head = self._stored.read_head(found.file)
        if head is None or not head.source.isprintable() or len(head.source) > 130:
            raise Broken("the source of imported statistics is no short line", head)
        if self._stored.chosen(self.lm.fingerprint).get(found.layer) != found.file:
            raise Broken("imported statistics are not chosen", found)
        if [one.tokens for one in self._stored.stored(self.lm.fingerprint) if one.file == found.file] != [found.tokens]:
            raise Broken("imported statistics are not found in the list", found)


def _shape(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(isinstance(one, int) for one in value) and len(value) < 40:
        return tuple(value)
    return None


def _number(value: Any, usual: float) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else usual
    except OverflowError:
        return float("inf")


TARGETS = (NpzTarget(),)
