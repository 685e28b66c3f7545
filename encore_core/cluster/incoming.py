"""What a run's task sends, brought into the store: files into a hidden folder beside it, then taken in as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from encore_core.runs import key_statistics
from encore_core.runs.carried import TakenIn, pack, take_in
from encore_core.runs.rows import Claim
from encore_core.runs.store import RunStore
from encore_core.storage import remove, writing

Named = tuple[str, Path]
"""A name in a run's folder, with "/", and the file that is meant."""


class Incoming:
    """The files of one run that are on their way.

    Args:
        store: that of the driver.
        claim: the driver's right to the run.
    """

    def __init__(self, store: RunStore, claim: Claim):
        self.store, self.claim = store, claim
        self.folder = store.folder / f".incoming-{claim.id}"
        remove(self.folder)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write a part of a file. Parts come in order, from the first.

        Raises:
            WriteError: when there is no room.
        """
        target = self.folder / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab" if offset else "wb") as stream:
                stream.write(data)

    def take(self) -> TakenIn:
        """Take in what has come since the last time.

        Raises:
            InputError, LostRun: as `runs.carried.take_in`.
        """
        try:
            return take_in(self.store, self.folder, self.claim.id, self.claim, move=True)
        finally:
            remove(self.folder)

    def drop(self) -> None:
        """Forget what has come: its sender is gone."""
        remove(self.folder)


def packed(store: RunStore, run_id: str, device: str) -> tuple[Path, Sequence[Named]]:
    """A run as the files that a node needs.

    Args:
        store: that of the driver.
        run_id: the run.
        device: its device on the node.

    Returns:
        a folder that the caller removes, and the files, of which large ones lie elsewhere.

    Raises:
        InputError: as `runs.carried.pack`.
    """
    folder = store.folder / f".outgoing-{run_id}"
    shutil.rmtree(folder, ignore_errors=True)
    pack(store, run_id, folder, device)
    states = [(f"{run_id}/{state.file}", store.folder_of(run_id) / state.file) for state in store.states(run_id)]
    own = [(str(file.relative_to(folder).as_posix()), file) for file in sorted(folder.rglob("*")) if file.is_file()]
    # The newest state; the one before it is for a disk on which that is damaged.
    rest = [(name, file) for name, file in states if file.is_file()][:1]
    if not rest:  # a state holds what was computed from the statistics
        chosen = key_statistics.chosen_files(store.get(run_id).statistics_wanted)
        rest = [(f"{run_id}/{key_statistics.SENT}/{name}", file) for name, file in chosen.items()]
    return folder, [*own, *rest]
