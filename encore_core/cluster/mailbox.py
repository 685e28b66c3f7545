"""An actor through which tasks hear that they must stop, or that their driver is gone.

It belongs to the driver and has a name in the cluster, so it is also what keeps a second driver, from whatever machine
and store, from working on the same plan: Ray gives a name once, and frees it when the driver ends, however it ends.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from encore_core.errors import InputError

TAKEN_SECONDS = 10.0
"""How long the name may be taken before that is a second driver: Ray needs a moment to bury one that was killed."""


class Mailbox:
    """Keeps for each run whether it must stop.

    Args:
        owner: who the driver is, in words.
    """

    def __init__(self, owner: str):
        self.owner = owner
        self.stops: dict[str, str] = {}

    def whose(self) -> str:
        """Who made it."""
        return self.owner

    def tell(self, run_id: str, stop: str) -> None:
        """Ask a run to "cancel" or "interrupt"."""
        self.stops[run_id] = stop

    def forget(self, run_id: str) -> None:
        """The run has heard it."""
        self.stops.pop(run_id, None)

    def stop_of(self, run_id: str) -> str | None:
        """What a run has been asked to do; None to go on."""
        return self.stops.get(run_id)


def open_mailbox(ray: Any, name: str, owner: str, seconds: float = TAKEN_SECONDS) -> Any:
    """The handle of a new mailbox.

    Args:
        ray: the module, connected.
        name: of the plan.
        owner: who the driver is, in words.
        seconds: see `TAKEN_SECONDS`.

    Raises:
        InputError: when another driver has one for the plan.
    """
    # By value, lest a process that keeps a few words load this program and torch.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # On this process's node: on another it would die with that, and every run would take the driver for gone.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    make = ray.remote(num_cpus=0, max_restarts=0)(Mailbox).options(name=f"encore:{name}", scheduling_strategy=here)
    end = time.monotonic() + seconds
    while True:
        try:
            box = make.remote(owner)
            ray.get(box.whose.remote(), timeout=60)
        except (ValueError, ray.exceptions.RayError) as error:
            if time.monotonic() < end:
                time.sleep(0.5)
                continue
            raise InputError(f"Plan {name} is being worked on in this cluster by {_whose(ray, name)}.") from error
        else:
            return box


def _whose(ray: Any, name: str) -> str:
    try:
        return ray.get(ray.get_actor(f"encore:{name}").whose.remote(), timeout=10)
    except (ValueError, ray.exceptions.RayError):
        return "another driver"
