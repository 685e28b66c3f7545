"""`encore doctor`: what is installed, which devices, how much room, and whether a model can be edited."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable

from encore_core.cli.options import add_json_option, add_verbose_option, refuse_unused
from encore_core.cli.output import Bar, duration, some_layers
from encore_core.doctor import Report, examine
from encore_core.editing.covariance import summary
from encore_core.errors import InputError
from encore_core.model_check import LayerStatistics, ModelCheck, check_model
from encore_core.models.memory import gigabytes

EXIT_WRONG = 1


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which devices, how much room; whether a model can be edited",
        description="The exit code is 0 when all is well, and 1 when something is wrong.",
    )
    parser.add_argument(
        "--model", help="check whether this model can be edited here, and at what cost; reads all its files"
    )
    parser.add_argument("--device", metavar="D", help="where it would be loaded (default: the best one present)")
    parser.add_argument("--dtype", metavar="T", help="its number format (default float32)")
    add_json_option(parser)
    add_verbose_option(parser)
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.model is None:
        refuse_unused({"--device": options.device, "--dtype": options.dtype}, "is for a model; add --model")
    report = examine()
    check, refused = None, None
    if options.model is not None:
        try:
            with Bar("Looking") as bar:
                check = check_model(options.model, options.device, options.dtype, bar.share)
        except InputError as error:
            # The question was whether it can be edited, and this is the answer.
            refused = str(error)
    problems = [*report.problems, *(check.problems if check else ()), *([refused] if refused else [])]
    if options.json:
        model = {"model": check and check.as_dict()} if options.model is not None else {}
        print(json.dumps(report.as_dict() | model | {"problems": problems}))
    else:
        _print(_installation(report))
        if check is not None:
            print(f"\n{check.name}")
            _print(_model(check))
        notes = [*report.notes, *(check.notes if check else ())]
        print("\n" + "\n".join([*(f"note: {note}" for note in notes), *(f"wrong: {line}" for line in problems)]))
        if not problems:
            print("All is well." if check is None else f"All is well: {check.name} can be edited here.")
    return EXIT_WRONG if problems else 0


def _print(rows: Iterable[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"{name:18}{value}")


def _installation(report: Report) -> list[tuple[str, str]]:
    rows = [("encore", report.version), ("python", f"{report.python} on {report.system}")]
    rows += [(one.name, one.found or "not installed") for one in report.packages]
    state = "unpacked" if report.unpacked else "installed" if report.embedded else "not installed"
    rows.append(("embedded model", state))
    rows += [
        (one.name, f"{one.about}, {gigabytes(one.free)} of {gigabytes(one.total)} memory free")
        for one in report.devices
    ]
    held = ", ".join(f"{name} {gigabytes(size)}" for name, size in report.holds.items())
    rows.append(("data folder", f"{report.folder}, {gigabytes(report.disk_free)} of disk free"))
    rows.append(("its content", held or "nothing yet"))
    rows.append(("hub", "can be reached" if report.hub else "cannot be reached"))
    return rows


def _model(check: ModelCheck) -> list[tuple[str, str]]:
    s = check.settings
    rows = [
        ("family", check.family + ("" if check.known else " (no row: found from its structure)")),
        (
            "shape",
            f"{check.n_layers} layers, d_model {check.d_model:,}, d_mlp {check.d_mlp:,}, "
            f"{check.n_weights / 1e6:,.0f} M parameters",
        ),
        (
            "hyper-parameters",
            f"{s.standing} ({check.source}): layers "
            f"{some_layers(s.layers)}, λp {s.lambda_p:g}, λn {s.lambda_n:g}, lr {s.lr:g}",
        ),
        ("start token", check.start_token),
        ("memory", f"{check.memory}; {gigabytes(check.free)} free on {check.device}, {check.dtype}"),
    ]
    said: dict[str, list[int]] = {}
    for one in check.statistics:
        said.setdefault(_statistics(one), []).append(one.layer)
    for place, (words, layers) in enumerate(said.items()):
        rows.append(("statistics" if place == 0 else "", f"layers {some_layers(layers)}: {words}"))
    if any(one.used is None for one in check.statistics):
        rows.append(
            (
                "gathering them",
                f"roughly {duration(check.statistics_seconds)} for {check.statistics_tokens:,} tokens, "
                f"{gigabytes(check.statistics_bytes)} of disk: encore statistics --model {check.name} --source …",
            )
        )
    return rows


def _statistics(one: LayerStatistics) -> str:
    if one.used is not None:
        return summary(one.used)
    there = f" ({'; '.join(map(summary, one.others))} there)" if one.others else ""
    return f"bundled sample, gathered at the first edit{there}"
