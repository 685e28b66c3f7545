"""What every node of a cluster has: versions, models, files; and whether the nodes agree.

A node is asked by a small task that is bound to it. What a run needs as files (a model folder, a text for statistics,
data of downstream tasks) must have the same content under the same name on each node that may get the run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from encore_core import processes
from encore_core.cluster.needs import Needs
from encore_core.errors import InputError, first_line
from encore_core.storage import is_folder
from encore_core.version import __version__

log = logging.getLogger(__name__)

PACKAGES = ("ray", "torch", "transformers", "safetensors", "numpy")
SAMPLES, SAMPLE_BYTES = 64, 4096
ASK_SECONDS = 600.0


@dataclass(frozen=True)
class NodeSays:
    """What a node answered.

    Attributes:
        node: its id in Ray.
        host: its name.
        versions: by package, and of Python and of this program with its commit.
        files: by path, a digest of the content; None where there is nothing.
        processor: kind of its GPUs, if it has any, and of its cores.
        resources: Ray's, in total.
    """

    node: str
    host: str
    versions: Mapping[str, str]
    files: Mapping[str, str | None]
    processor: str
    resources: Mapping[str, float]


def versions_here() -> dict[str, str]:
    """The versions that must be the same on all nodes."""
    found = {name: metadata.version(name) for name in PACKAGES}
    ours = f"{__version__} (program {processes.program_digest()})"
    return {"Python": platform.python_version(), "encore-studio": ours, **found}


def about_this_node(paths: Sequence[str]) -> dict[str, Any]:
    """What a node says of itself; the body of the task.

    Args:
        paths: files and folders that runs need.
    """
    return {
        "host": processes.host(),
        "versions": versions_here(),
        "files": {path: content_digest(path) for path in paths},
        "processor": _processor(),
    }


def _processor() -> str:
    """The name of this machine's processor, as far as the system says."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def content_digest(path: str) -> str | None:
    """16 hex digits of a file or a model folder; None where there is nothing.

    Of a large file its size and a sample spread over it are read, so that weights take no time.
    """
    if not Path(path).exists():
        return None
    names = ("*.json", "*.safetensors", "*.jsonl", "*.model")
    files = sorted({one for name in names for one in Path(path).glob(name)}) if is_folder(path) else [Path(path)]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if is_folder(path) else ''} {size}\n".encode())
        with file.open("rb") as stream:
            for number in range(SAMPLES):
                stream.seek(number * max(SAMPLE_BYTES, size // SAMPLES))
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def ask_nodes(ray: Any, paths: Sequence[str], nodes: Iterable[Mapping[str, Any]] | None = None) -> list[NodeSays]:
    """Ask the nodes of a cluster, all at once.

    Args:
        ray: the module, connected.
        paths: files and folders that runs need.
        nodes: rows of `ray.nodes()`; all that live by default.

    Returns:
        what each says; nodes that are gone by then are left out.

    Raises:
        InputError: when a node does not have this program, or does not answer, or all are gone.
    """
    bound = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    ask = ray.remote(num_cpus=0, max_retries=0)(about_this_node)
    nodes = [node for node in nodes or ray.nodes() if node["Alive"]]
    asked = [
        (node, ask.options(scheduling_strategy=bound(node["NodeID"], soft=False)).remote(list(paths))) for node in nodes
    ]
    found = []
    for node, answer in asked:
        host = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
        try:
            said = ray.get(answer, timeout=ASK_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise InputError(
                f"Node {host} has not answered for {ASK_SECONDS:.0f} s; is it busy, or out of processes? Ray's log "
                "is in /tmp/ray there."
            ) from error
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError) as error:
            # Ray takes some seconds to notice that a node is gone; until then it is on the list.
            log.warning("Node %s is gone and is not used (%s).", host, first_line(error))
            continue
        except ray.exceptions.RayError as error:
            raise InputError(
                f"Node {host} cannot be used ({first_line(error)}); install the same encore-studio[ray] there as here."
            ) from error
        # A task that has asked for no GPU sees none, but Ray names the kind.
        kinds = [name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")]
        said["processor"] = ", ".join((*kinds, said["processor"]))
        found.append(NodeSays(node=node["NodeID"], resources=node["Resources"], **said))
    if nodes and not found:
        raise InputError("All nodes of the cluster are gone; start them again (ray start).")
    return found


def check_agree(nodes: Sequence[NodeSays], versions: Mapping[str, str]) -> None:
    """Refuse nodes that differ from this process, or from each other.

    Raises:
        InputError: naming the first difference.
    """
    for node in nodes:
        for name, wanted in versions.items():
            if (has := node.versions.get(name, "none")) != wanted:
                raise InputError(
                    f"Node {node.host} has {name} {has}, but this machine has {wanted}; install the same version on "
                    "all nodes, or runs would not end in the same bits."
                )
    for path in nodes[0].files if nodes else ():
        found = {node.host: node.files[path] for node in nodes}
        lacking = [host for host, digest in found.items() if digest is None]
        if lacking:
            raise InputError(
                f"Node {lacking[0]} does not have {path}, which runs of this plan need; put it there under this name."
            )
        if len(set(found.values())) > 1:
            said = ", ".join(f"{host}: {digest}" for host, digest in found.items())
            raise InputError(f"{path} is not the same on all nodes (fingerprints {said}); make it the same.")


def check_room(nodes: Sequence[NodeSays], needs: Mapping[str, Needs]) -> None:
    """Refuse runs that no node has room for.

    Raises:
        InputError: naming the first, what it needs and what the largest node has.
    """
    for run_id, one in needs.items():
        if not any(one.fit(node.resources) for node in nodes):
            raise InputError(
                f"No node of the cluster has room for run {run_id}, which needs {one}; the nodes have "
                f"{'; '.join(dict.fromkeys(describe(node.resources) for node in nodes)) or 'nothing'}."
            )


def describe(resources: Mapping[str, float]) -> str:
    """A node's resources in words."""
    have = Needs(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), int(resources.get("memory", 0)))
    return str(have)


def processors(nodes: Sequence[NodeSays]) -> list[str]:
    """The kinds of processors among nodes; a run is the same to the bit only on one kind."""
    return sorted({node.processor for node in nodes})


def files_needed(plans: Iterable[Mapping[str, Any]]) -> list[str]:
    """Files and folders that runs need on their nodes, from their plans as JSON values."""
    found: dict[str, None] = {}
    for plan in plans:
        named = (plan["model"], plan.get("statistics_text"), plan.get("measure", {}).get("downstream"))
        found |= dict.fromkeys(name for name in named if name and os.path.isabs(name))  # noqa: PTH117
    return list(found)
