"""`encore statistics`: gather, import, export, list and choose the key statistics that edits of a model use."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from encore_core.cli.editing import load
from encore_core.cli.options import add_json_option, add_model_options, path, path_or_name, positive, refuse_unused
from encore_core.cli.output import Bar, duration, notice, some_layers
from encore_core.editing import stored_statistics
from encore_core.editing.covariance import summary
from encore_core.errors import InputError, quoted
from encore_core.models.memory import gigabytes
from encore_core.statistics.convergence import TOLERANCE
from encore_core.statistics.cost import Cost, cost, shortages
from encore_core.statistics.gathering import Result, gather
from encore_core.statistics.npz import export_npz, import_npz
from encore_core.statistics.request import Request
from encore_core.statistics.texts import SOURCES, Interrupted, check_source

USED = {
    "--source": ("--layers", "--tokens", "--enough", "--estimate"),
    "--import": ("--layer",),
    "--export": ("--layers",),
    "--list": (),
    "--forget": ("--layers",),
}
"""Which options go with which action."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    parser = commands.add_parser(
        "statistics", help="gather, import, export or list the key statistics (C0) that edits of a model use"
    )
    add_model_options(parser)
    parser.add_argument(
        "--source",
        type=path_or_name,
        metavar="S",
        help=f"{', '.join(SOURCES)} or a text file: gather, and let edits use the result",
    )
    parser.add_argument("--layers", metavar="L", help='for example "6-10" or "6,7,8" (default: the edited layers)')
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help="how many tokens of text (default: ten times d_mlp or more)"
    )
    parser.add_argument(
        "--enough", action="store_true", help="stop when more tokens would change little; --tokens is then the maximum"
    )
    parser.add_argument("--estimate", action="store_true", help="only print what it would cost")
    parser.add_argument(
        "--import", dest="npz", type=path, metavar="FILE", help="import an .npz file in the format that MEMIT publishes"
    )
    parser.add_argument("--layer", type=int, metavar="L", help="of the imported file (default: from its name)")
    parser.add_argument(
        "--export",
        type=path,
        metavar="FOLDER",
        help="write what edits use, C0 and F, as .npz files to --import",
    )
    parser.add_argument("--list", action="store_true", dest="listing", help="list the statistics of all models")
    parser.add_argument(
        "--forget", action="store_true", help="make edits of this model use the bundled sample again; deletes nothing"
    )
    add_json_option(parser, "value")
    parser.set_defaults(command=_statistics)


def _statistics(options: argparse.Namespace) -> None:
    asked = [
        name
        for name, value in (
            ("--source", options.source), ("--import", options.npz), ("--export", options.export),
            ("--list", options.listing), ("--forget", options.forget),
        )
        if value
    ]  # fmt: skip
    if len(asked) != 1:
        raise InputError(
            f"{' and '.join(asked) or 'Nothing'} is asked for; give one of --source, --import, --export, "
            "--list and --forget."
        )
    [action] = asked
    of_actions = {
        "--layer": options.layer, "--layers": options.layers, "--tokens": options.tokens, "--enough": options.enough,
        "--estimate": options.estimate,
    }  # fmt: skip
    unused = {name: value for name, value in of_actions.items() if name not in USED[action]}
    refuse_unused(unused, f"does not go with {action}; leave it out")
    if options.listing:
        _list(options)
    elif options.npz is not None:
        _import(options)
    elif options.export is not None:
        _export(options)
    elif options.forget:
        _forget(options)
    else:
        _gather(options)


def _forget(options: argparse.Namespace) -> None:
    wanted = _layers(options.layers)
    lm = load(options)
    layers = sorted(layer for layer in stored_statistics.chosen(lm.texts_key) if wanted is None or layer in wanted)
    stored_statistics.forget_choice(lm.texts_key, wanted)
    if options.json:
        print(json.dumps({"layers": layers}))
    where = f"layers {some_layers(layers)}: " if layers else "nothing had been chosen: "
    print(f"{where}edits of {options.model} use the bundled sample", file=sys.stderr)


# -- gathering ---------------------------------------------------------------------------------------------------------


def _gather(options: argparse.Namespace) -> None:
    check_source(options.source)
    request = Request(
        model=options.model,
        source=options.source,
        layers=_layers(options.layers),
        tokens=options.tokens,
        enough=options.enough,
        device=options.device,
        dtype=options.dtype,
        start_token=options.start_token,
    )
    lm = load(options)
    needed = cost(lm, request)
    if options.estimate:
        lines = shortages(needed, lm.device)
        print(json.dumps(vars(needed) | {"shortages": lines}) if options.json else _said(needed))
        for line in lines:
            notice(line)
        return
    notice(_said(needed))
    for line in shortages(needed, lm.device):
        raise InputError(line)
    with Bar("Gathering", total=1.0) as bar, _stoppable() as stop:
        try:
            result = gather(lm, request, _teller(bar), stop)
        except Interrupted:
            notice("What has been gathered is kept; the same command continues.")
            raise KeyboardInterrupt from None
    _tell(result, options.json)


@contextmanager
def _stoppable() -> Iterator[Any]:
    """Let Ctrl-C and SIGTERM stop gathering after the current batch, with its sums saved; a second stops at once."""
    asked = threading.Event()

    def ask(number: int, _frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _teller(bar: Bar):
    started: dict[str, tuple[int, float]] = {}

    def tell(what: str, done: int, total: int) -> None:
        first, began = started.setdefault(what, (done, time.monotonic()))
        left = (time.monotonic() - began) / (done - first) * (total - done) if done > first else None
        tokens = f" {done:,} of {total:,} tokens" if what.startswith("Gathering") else ""
        bar.share(f"{what}{tokens}{f', {duration(left)} left' if left else ''}", done / total if total else 0.0)

    return tell


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    layers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            if int(last or first) - int(first) > 1000:
                raise ValueError
            layers += range(int(first), int(last or first) + 1)
    except ValueError:
        layers = []
    if not layers:
        raise InputError(f'--layers {quoted(text)} names no blocks; write for example "6-10" or "6,7,8".')
    return tuple(layers)


def _said(needed: Cost) -> str:
    """A cost in one line."""
    if not needed.missing:
        return f"All of it is there already: layers {some_layers(needed.layers)}, {needed.tokens:,} tokens."
    sampling = f" ({duration(needed.sampling_seconds)} of them sampling text)" if needed.sampling_seconds else ""
    return (
        f"Layers {some_layers(needed.layers)}, at most {needed.tokens:,} tokens: about {duration(needed.seconds)}"
        f"{sampling}, {gigabytes(needed.memory_bytes)} of memory besides the model, "
        f"{gigabytes(needed.disk_bytes)} of disk meanwhile and {gigabytes(needed.kept_bytes)} afterwards."
    )


def _tell(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.as_dict()))
        return
    before = None
    for look in result.looks:
        worst = max(look.disturbance.values())
        change = look.change(before)
        print(f"{look.tokens:>9} tokens  disturbance {worst:.3g}{f'  change {change:.1%}' if change else ''}")
        before = look
    if result.enough is False:
        notice(f"More tokens would still change more than {TOLERANCE:.0%}: raise --tokens, or use a longer text.")
    print(
        f"Layers {some_layers(sorted(result.files))}: {result.tokens:,} tokens of {result.source}; edits of this model "
        "use them from now on",
        file=sys.stderr,
    )


# -- importing, exporting and listing ----------------------------------------------------------------------------------


def _import(options: argparse.Namespace) -> None:
    if not options.npz.is_file():
        raise InputError(f"There is no file {options.npz}.")
    lm = load(options)
    found = import_npz(lm, options.npz, options.layer)
    if found.model not in (None, lm.texts_key):
        notice(
            "These statistics were gathered with other weights, another number format or another start token "
            f"({found.model}; this model is {lm.texts_key}). Edits use them all the same; --forget undoes it."
        )
    if options.json:
        print(json.dumps(vars(found) | {"file": str(found.file)}))
        return
    tokens = f"{found.tokens:,} tokens" if found.tokens else "number of tokens not known"
    what = "C0 and F" if found.gradients else "C0"
    print(f"Layer {found.layer}: {what} imported, {tokens}; edits of this model use it from now on", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    files = export_npz(load(options), options.export, _layers(options.layers))
    if options.json:
        print(json.dumps({str(layer): str(file) for layer, file in files.items()}))
        return
    for file in files.values():
        print(file)


def _list(options: argparse.Namespace) -> None:
    rows = [
        {"model": known.name, "fingerprint": known.key} | one.as_dict()
        for known in stored_statistics.known_models()
        for one in stored_statistics.stored(known.key)
    ]
    if options.json:
        print(json.dumps(rows))
        return
    for known in stored_statistics.known_models():
        there = stored_statistics.stored(known.key)
        if not there:
            continue
        print(f"{known.name or 'a model of unknown name'} ({known.key})")
        for one in there:
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made))
            mark, held = "used by edits" if one.chosen else "", gigabytes(one.file.stat().st_size)
            print(f"  layer {one.layer:<4}{summary(one):44}{made:18}{held:>8}  {mark}".rstrip())
