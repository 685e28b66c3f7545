"""A team: this process and actors of Ray, each with the model and equal matrices, that share the work of every batch.

    with team_of(how, lm, n=4) as team:
        session.helpers = team
        session.edit(facts)
        team.keep()                       # after every batch that was committed

Targets: whoever is free takes the next shard (see `helpers`). Keys: a shard stays with one member from the lowest layer
to the highest. The update is solved once, here, and its factors (A, Y) go to all. Per batch of n facts and member

    sent       n (d_model + d_mlp) · 8 bytes per layer, the facts of its shards, and F where the search needs it
    received   (d_model + d_mlp) · 8 bytes per fact of its shards and layer, and 2 d_model · 4 per fact for its target

The matrices of all are compared by digest whenever `check` is called.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encore_core.editing.batch import find_targets
from encore_core.editing.batch_report import EditProgress, OnProgress
from encore_core.editing.edited_matrices import weights_digest
from encore_core.editing.helpers import SHARD_FACTS, shards
from encore_core.editing.keys import KeyReader
from encore_core.editing.target_loss import TargetSettings
from encore_core.editing.targets import Target
from encore_core.editing.team_member import LoadAs, Member, to_numpy
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import InputError, first_line, quoted
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel
from encore_core.ray_core import AUTO, LOCAL, connected, ray_module

LOOK_SECONDS = 0.5
START_SECONDS = 900.0


@contextmanager
def team_of(how: LoadAs, lm: EditableModel, n: int) -> Iterator[Team]:
    """A team of this process and n − 1 actors, for the duration of the block.

    The actors are on the cluster that this process is connected to, or that RAY_ADDRESS names, and else on this
    machine, spread over its GPUs.

    Args:
        how: to load the model, as this process has.
        lm: the model here.
        n: members, at least 2.

    Raises:
        InputError: when Ray is not there, has no room, or a member's model is another one.
    """
    ray = ray_module()
    if ray.is_initialized():  # inside a task of a grid
        yield from _team(ray, how, lm, n, None)
        return
    address = AUTO if os.environ.get("RAY_ADDRESS") else LOCAL
    n_gpus = torch.cuda.device_count() if address == LOCAL else None
    # An actor that has asked Ray for no GPU must see them all, to take the one it is given by name.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"num_cpus": n} if address == LOCAL else {}
    with connected(address, **options) as ray:
        yield from _team(ray, how, lm, n, n_gpus)


def _team(ray: Any, how: LoadAs, lm: EditableModel, n: int, n_gpus: int | None) -> Iterator[Team]:
    on_gpu = how.device.startswith("cuda")
    asked = {"num_cpus": how.threads if n_gpus is None else 1, "num_gpus": int(on_gpu and n_gpus is None)}
    make = ray.remote(**asked, max_restarts=0)(Member)
    devices = [f"cuda:{number % n_gpus}" if on_gpu and n_gpus else how.device for number in range(1, n)]
    members = [make.remote(replace(how, device=device)) for device in devices]
    try:
        yield Team(ray, lm, members)
    finally:
        for member in members:
            ray.kill(member)


@dataclass
class Traffic:
    """Bytes of what was sent to members and came back, as pickled. Counting costs time, so it is done when asked."""

    sent: int = 0
    received: int = 0


class Team:
    """See the module.

    Args:
        ray: the module, connected.
        lm: the model here.
        members: handles of the actors.

    Raises:
        InputError: when a member cannot be started, or its model is another one.
    """

    def __init__(self, ray: Any, lm: EditableModel, members: Sequence[Any]):
        self.ray, self.lm, self.members = ray, lm, list(members)
        self.traffic: Traffic | None = None
        self.under_way = False
        about = self._get([member.about.remote() for member in self.members], START_SECONDS)
        for one in about:
            if (one["fingerprint"], one["start"]) != (lm.fingerprint, lm.start_text):
                raise InputError(
                    f"The model {quoted(lm.name)} on {one['host']} is not the one here (fingerprint "
                    f"{one['fingerprint']}, here {lm.fingerprint}); put the same one there."
                )

    # -- what a batch asks for -----------------------------------------------------------------------------------------

    def find_targets(
        self,
        lm: EditableModel,
        facts: Sequence[Fact],
        prefixes: Sequence[str],
        layer: int,
        settings: TargetSettings,
        F: torch.Tensor | None,
        fast: bool,
        on_progress: OnProgress | None,
    ) -> list[Target]:
        """One target per fact, as `batch.find_targets`."""
        waiting = deque(shards(len(facts), SHARD_FACTS[lm.device.type]))
        found: dict[int, Target] = {}
        flying: dict[Any, tuple[Any, range]] = {}
        metric = None if F is None else self.ray.put(to_numpy(F))
        tell = on_progress or (lambda progress: None)

        def hand_out(member: Any) -> None:
            shard = waiting.popleft()
            asked = ([facts[place] for place in shard], tuple(prefixes), layer, settings, metric, fast)
            flying[self._call(member, "targets", *asked)] = member, shard

        def share_out() -> None:
            """A shard for every member that has none; another ahead, as long as all have one to come to."""
            for ahead in (False, True):
                for member in self.members:
                    n_has = sum(one is member for one, _ in flying.values())
                    if n_has <= ahead and len(waiting) > (len(self.members) + 1 if ahead else 0):
                        hand_out(member)

        def collect(seconds: float) -> None:
            ready, _ = self.ray.wait(list(flying), num_returns=1, timeout=seconds) if flying else ([], [])
            for reference in ready:
                _, shard = flying.pop(reference)
                share_out()
                for place, (z, h, target) in zip(shard, self._get(reference), strict=True):
                    found[place] = replace(target, z=self._here(z), h=self._here(h))

        def said(progress: EditProgress) -> None:
            # Members are not kept waiting until the shard of this process is done.
            collect(0)
            tell(replace(progress, done=len(found) + progress.done, total=len(facts)))

        share_out()
        while waiting or flying:
            if waiting:
                shard = waiting.popleft()
                own = find_targets(lm, [facts[place] for place in shard], prefixes, layer, settings, F, fast, said)
                found.update(zip(shard, own, strict=True))
            else:
                collect(LOOK_SECONDS)
                tell(EditProgress("targets", len(found), len(facts)))
        return [found[place] for place in range(len(facts))]

    def reader(
        self, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layers: Sequence[int]
    ) -> TeamReader:
        """What reads the keys of the batch."""
        self.under_way = True
        return TeamReader(self, lm, facts, tuple(prefixes), tuple(layers))

    # -- around batches ------------------------------------------------------------------------------------------------

    def begin_from(self, exact: Mapping[int, torch.Tensor]) -> None:
        """Give the session's matrices to all.

        Args:
            exact: by layer, in the dtype in which they are summed.
        """
        matrices = self.ray.put({layer: to_numpy(W) for layer, W in exact.items()})
        self._get([member.begin_from.remote(matrices) for member in self.members])

    def keep(self) -> None:
        """The session has committed the batch; without facts there was none."""
        if self.under_way:
            self._get([member.keep.remote() for member in self.members])
        self.under_way = False

    def drop(self) -> None:
        """The batch was given up: what members have of it is forgotten when the next one begins."""
        self.under_way = False

    def check(self, matrices: Mapping[int, torch.Tensor]) -> None:
        """Compare the matrices of all.

        Args:
            matrices: the session's.

        Raises:
            InputError: when a member's differ: the run cannot go on.
        """
        own = weights_digest(matrices)
        for number, digest in enumerate(self._get([member.digest.remote() for member in self.members]), 2):
            if digest != own:
                raise InputError(
                    f"The matrices of worker {number} no longer match those of the run (digest {digest[:16]}, "
                    f"the run's {own[:16]}); are its processor and thread number the same? Resume from the last state."
                )

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _call(self, member: Any, name: str, *values: Any) -> Any:
        if self.traffic is not None:
            shown = [self.ray.get(one) if isinstance(one, self.ray.ObjectRef) else one for one in values]
            self.traffic.sent += len(self.ray.cloudpickle.dumps(shown))
        return getattr(member, name).remote(*values)

    def _get(self, references: Any, seconds: float | None = None) -> Any:
        """What members return.

        Raises:
            InputError: what a member raised, or when it is gone.
        """
        try:
            found = self.ray.get(references, timeout=seconds)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            raise
        except self.ray.exceptions.GetTimeoutError as error:
            raise InputError(
                f"The cluster has no room for {len(self.members)} more workers of this model; give fewer (--workers)."
            ) from error
        except self.ray.exceptions.RayError as error:
            raise InputError(
                f"A worker of the run is gone ({first_line(error)}); resume the run, which goes on from its last state."
            ) from error
        if self.traffic is not None:
            self.traffic.received += len(self.ray.cloudpickle.dumps(found))
        return found

    def _here(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.lm.device)


class TeamReader:
    """Reads the keys of a batch with all members; of this process first, while the others work.

    Args:
        team: whose.
        lm, facts, prefixes, layers: as for `keys.KeyReader`.
    """

    def __init__(self, team: Team, lm: EditableModel, facts: Sequence[Fact], prefixes: tuple[str, ...], layers):
        self.team, self.lm, self.n_facts = team, lm, len(facts)
        self.states_found: torch.Tensor | None = None
        owners = [None, *team.members]
        cut = list(enumerate(shards(len(facts), SHARD_FACTS[lm.device.type])))
        self.own: dict[int, tuple[range, KeyReader]] = {}
        self.others: dict[int, tuple[range, Any]] = {}
        self.unheard = [team._call(member, "begin", layers) for member in team.members]
        for number, shard in cut:
            member = owners[number % len(owners)]
            if member is not None:
                some = [facts[place] for place in shard]
                self.unheard.append(team._call(member, "read", number, some, prefixes, layers))
                self.others[number] = shard, member
        for number, shard in cut:
            if number not in self.others:
                self.own[number] = shard, KeyReader(lm, [facts[place] for place in shard], prefixes, layers)

    def keys(self, layer: int) -> torch.Tensor:
        """K of a layer, (d_mlp, n_facts), as `KeyReader.keys`."""
        asked = [(shard, self.team._call(member, "keys", n, layer)) for n, (shard, member) in self.others.items()]
        K, h = _Columns(self.n_facts), _Columns(self.n_facts)
        unheard, self.unheard = self.unheard, []
        for shard, reader in self.own.values():
            K.put(shard, reader.keys(layer))
            h.put(shard, reader.states(layer))
        self.team._get(unheard)
        for shard, reference in asked:
            of_keys, of_states = self.team._get(reference)
            K.put(shard, self.team._here(of_keys))
            h.put(shard, self.team._here(of_states))
        self.states_found = h.all
        return K.all

    def states(self, layer: int) -> torch.Tensor:
        """h at the last edited layer, (d_model, n_facts); `keys` of this layer has read it."""
        return self.states_found

    def added(self, layer: int, update: LowRankUpdate) -> None:
        """Send an update to all."""
        factors = [self.team.ray.put(to_numpy(one)) for one in (update.A, update.Y)]
        self.unheard += [self.team._call(member, "add", layer, *factors) for member in self.team.members]

    def replaced(self, updates: Mapping[int, LowRankUpdate]) -> None:
        """Let all begin their drafts again, with other updates."""
        self.unheard += [self.team._call(member, "begin", tuple(updates)) for member in self.team.members]
        for layer, update in updates.items():
            self.added(layer, update)

    def advance(self, layer: int, to: int) -> None:
        """Go on to the next layer."""
        self.unheard += [self.team._call(member, "advance", layer, to) for member in self.team.members]
        for _, reader in self.own.values():
            reader.advance(layer, to)


class _Columns:
    """A matrix that is filled shard by shard."""

    def __init__(self, n: int):
        self.n = n
        self.all: torch.Tensor | None = None

    def put(self, shard: range, columns: torch.Tensor) -> None:
        if self.all is None:
            self.all = columns.new_empty(columns.shape[0], self.n)
        self.all[:, shard.start : shard.stop] = columns


def planned_traffic(n_facts: int, n: int, d_model: int, d_mlp: int, n_layers: int, shard: int) -> Traffic:
    """Bytes of a batch, from the sizes alone; see the module. Targets are taken to be shared equally.

    Args:
        n_facts: in the batch.
        n: members, this process among them.
        d_model, d_mlp: sizes of the model.
        n_layers: edited layers.
        shard: facts of a shard, see `helpers.SHARD_FACTS`.
    """
    cut = shards(n_facts, shard)
    elsewhere = sum(len(shard) for number, shard in enumerate(cut) if number % n)
    updates = (n - 1) * n_layers * n_facts * (d_model + d_mlp) * 8
    keys = n_layers * elsewhere * (d_model + d_mlp) * 8
    return Traffic(updates, keys + elsewhere * 2 * d_model * 4)
