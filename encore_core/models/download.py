"""A hub model as a folder: which commit is meant, which of its files are needed, and whether there is room.

In `NAME@REVISION` the revision is a branch, a tag or a commit; the default is the branch "main". First only the small
files are fetched (configuration, tokenizer, list of weight files), then, once these have been checked, the weights:
only safetensors, no code. The folder is in the hub's cache, which huggingface_hub uses, too.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_token

from encore_core import hub
from encore_core.errors import InputError, first_line, quoted
from encore_core.storage import gigabytes

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""`progress(what, share)`: what is being done, and the share done, from 0 to 1."""

MAIN = "main"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A tokenizer needs one of these files."""

_SMALL = (
    CONFIG, INDEX, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
MOST_SMALL_BYTES = 100_000_000
"""No configuration or tokenizer is larger, so a larger file is not fetched as one."""

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOLD_EVERY = 0.2
"""Seconds between two progress reports of a download."""


@dataclass(frozen=True)
class HubModel:
    """A model's repository at one commit.

    Attributes:
        name: as the user gave it.
        repo, revision, commit: which files are meant; the revision is a branch, a tag or the commit itself.
        folder: in the hub's cache, with the files fetched so far.
        sizes: bytes of every file of the repository, None where the hub does not say; without the hub, of the files
            in the cache.
        trouble: why the hub could not be asked; None when it answered.
    """

    name: str
    repo: str
    revision: str
    commit: str
    folder: Path
    sizes: Mapping[str, int | None]
    trouble: hub.Trouble | None = None

    @property
    def origin(self) -> str:
        """ "organisation/name@commit"."""
        return f"{self.repo}@{self.commit}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Files with weights that are not in the cache."""
        return tuple(file for file in weight_files(self.name, self.folder, self.sizes) if not _here(self.folder, file))

    @property
    def to_fetch(self) -> int:
        """Bytes of weights that are not in the cache, as far as the hub says."""
        whole = sum(self.sizes.get(file) or 0 for file in self.missing)
        return max(0, whole - hub.partly_here(self.repo))

    def check_fetching(self) -> None:
        """Check, before any weights are fetched, that all that are missing can be.

        Raises:
            InputError: when the hub cannot be asked for them, or does not have one, or the disk has no room.
        """
        missing = self.missing
        if missing and self.trouble is not None:
            others = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
            raise InputError(
                f"Model {quoted(self.name)}: {missing[0]}{others} of its weights {'are' if others else 'is'} not in "
                f"the hub's cache, and {self.trouble}; {self.trouble.remedy}."
            )
        unknown = [file for file in missing if file not in self.sizes]
        if unknown:
            raise InputError(f"Model {quoted(self.name)}: {INDEX} names {unknown[0]}, which {self.repo} does not hold.")
        free = shutil.disk_usage(_existing(self.folder)).free
        if self.to_fetch > free:
            raise InputError(
                f"Model {quoted(self.name)}: its weights take {gigabytes(self.to_fetch)} more of disk in "
                f"{constants.HF_HUB_CACHE}, which has {gigabytes(free)} free; make room, or set HF_HUB_CACHE to a "
                "folder on another disk."
            )

    def fetch_weights(self, tell: Progress) -> None:
        """Fetch the weights that are not in the cache. Parts from a broken download are kept for the next try.

        Args:
            tell: called with the share that has arrived.

        Raises:
            InputError: when the hub cannot be reached or refuses them, the disk has no room, or the download breaks.
        """
        self.check_fetching()
        missing = self.missing
        sizes = [self.sizes.get(file) or 0 for file in missing]
        for number, file in enumerate(missing):
            _fetch(self, file, _teller(tell, file, sum(sizes[:number]), sum(sizes)))
        _note_commit(self)


# -- which commit, and its small files ---------------------------------------------------------------------------------


def find_hub_model(name: str, repo: str, revision: str | None, suggestion: str = "") -> HubModel:
    """Find a hub model and fetch its small files; if the hub cannot be asked, use the cache.

    Args:
        name: as the user gave it, for messages.
        repo: "organisation/name", or "name" alone for some old ones.
        revision: branch, tag or commit; None for the main branch.
        suggestion: a sentence, after a blank, about what else may have been meant, or "".

    Raises:
        InputError: when the hub has no such model or revision, does not give it to this user, or cannot be asked and
            the cache does not have it; when it holds no weights in a format that is read here.
    """
    wanted = revision or MAIN
    cached = cached_model(name, repo, wanted)
    if cached is not None and _COMMIT.fullmatch(wanted) and _is_whole(cached):
        return cached  # a commit never changes
    trouble = hub.hub_trouble()
    if trouble is None:
        try:
            return _listed(name, repo, wanted)
        except (httpx2.HTTPError, OSError) as error:
            if cached is None or not _is_whole(cached):
                raise _refused(name, repo, wanted, error, suggestion) from error
            trouble = hub.trouble_of(error)
    if cached is None:
        raise InputError(_unreachable(name, repo, trouble, suggestion))
    log.info("Model %s: %s; its files in the cache are used.", name, trouble)
    return replace(cached, trouble=trouble)


def _listed(name: str, repo: str, revision: str) -> HubModel:
    """Ask the hub for a model's files, and fetch the small ones."""
    try:
        found = HfApi(endpoint=constants.ENDPOINT).model_info(
            repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (ValueError, KeyError, TypeError) as error:  # for example a network's login page
        raise OSError(f"{hub.hub_host()} answers with something else, so it is not the hub") from error
    sizes = {one.rfilename: one.size for one in found.siblings or () if _is_plain(one.rfilename)}
    commit = found.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"Model {quoted(name)}: the hub ({hub.hub_host()}) does not say which commit {revision!r} is.")
    model = HubModel(name, repo, revision, commit, hub.repository_folder(repo) / "snapshots" / commit, sizes)
    _check_kinds(model)
    # transformers reads the index only if the weights are not in one file.
    left_out = {INDEX} if WEIGHTS in sizes else set()
    for file in sorted(sizes.keys() - left_out):
        if any(fnmatchcase(file, pattern) for pattern in _SMALL):
            if (sizes[file] or 0) > MOST_SMALL_BYTES:
                raise InputError(
                    f"Model {quoted(name)}: {file} of {repo} has {gigabytes(sizes[file])}; no such file is that large."
                )
            _fetch(model, file)
    _note_commit(model)
    return model


def cached_model(name: str, repo: str, revision: str) -> HubModel | None:
    """A model as far as it is in the hub's cache; None when not even its configuration is."""
    commit = revision
    if not _COMMIT.fullmatch(revision):
        ref = hub.repository_folder(repo) / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    folder = hub.repository_folder(repo) / "snapshots" / commit
    if not commit or not (folder / CONFIG).is_file():
        return None
    files = [file for file in folder.rglob("*") if file.is_file()]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    return HubModel(name, repo, revision, commit, folder, sizes)


def is_cached(repo: str) -> bool:
    """Whether all of a model is in the hub's cache."""
    cached = cached_model(repo, repo, MAIN)
    return cached is not None and _is_whole(cached)


def _is_whole(model: HubModel) -> bool:
    try:
        return not model.missing and any(file in model.sizes for file in TOKENIZER_FILES)
    except InputError:
        return False


def _note_commit(model: HubModel) -> None:
    """Record the commit of a branch or tag, as huggingface_hub does, for times when the hub cannot be asked."""
    if _COMMIT.fullmatch(model.revision):
        return
    before = cached_model(model.name, model.repo, model.revision)
    if before is not None and before.commit == model.commit:
        return
    # Without a network, a complete older commit is of more use than an incomplete newer one.
    if before is not None and _is_whole(before) and not _is_whole(model):
        return
    ref = hub.repository_folder(model.repo) / "refs" / model.revision
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(model.commit, encoding="utf-8")
    except OSError as error:  # the files are here, but without the hub this revision will not lead to them
        log.warning("The hub's cache cannot be written to (%s): %s.", ref, first_line(error))


# -- which files -------------------------------------------------------------------------------------------------------


def _check_kinds(model: HubModel) -> None:
    """Refuse a repository by its file names, before any file is fetched."""
    about, files = f"Model {quoted(model.name)}: {model.repo}", model.sizes
    if CONFIG not in files and "adapter_config.json" in files:
        raise InputError(
            f"{about} holds an adapter and no model; merge it into its base model (peft's merge_and_unload), save "
            "that, and give its folder."
        )
    if CONFIG not in files:
        raise InputError(f"{about} has no config.json, so it is not a model that transformers reads.")
    if WEIGHTS not in files and INDEX not in files:
        others = sorted(file for file in files if file.endswith(_OTHER_WEIGHTS))
        raise InputError(
            f"{about} has no {WEIGHTS}{f' (but {others[0]})' if others else ''}; other formats are not read, because "
            "loading them can run code. Look for a revision or a copy of it with safetensors."
        )
    if not any(file in files for file in TOKENIZER_FILES):
        raise InputError(f"{about} has no tokenizer (one of {', '.join(TOKENIZER_FILES)}), and none can be made up.")


def weight_files(name: str, folder: Path, files: Mapping[str, int | None]) -> list[str]:
    """The weight files of a repository that transformers reads; the index is in `folder`.

    Raises:
        InputError: when the index cannot be read, or names no files or some that cannot be its weights.
    """
    if WEIGHTS in files or not (folder / INDEX).is_file():
        return [WEIGHTS]
    try:
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        odd = sorted(shard for shard in shards if not _is_plain(shard) or not shard.endswith(".safetensors"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"Model {quoted(name)}: {INDEX} cannot be read ({first_line(error)}).") from error
    if odd or not shards:
        raise InputError(f"Model {quoted(name)}: {INDEX} names {quoted(odd[0]) if odd else 'no files'} as its weights.")
    return sorted(shards)


def _is_plain(file: str) -> bool:
    """Whether a file's name stays inside its folder."""
    path = PurePosixPath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "\\" not in file and ":" not in file


def _here(folder: Path, file: str) -> bool:
    return (folder / file).is_file()


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


# -- fetching, and messages when it fails ------------------------------------------------------------------------------


def _fetch(model: HubModel, file: str, received: hub.Received = lambda n_bytes: None) -> None:
    try:
        hub.fetch_file(model.repo, file, model.commit, received=received)
    except hub.BrokenDownload as broken:
        have = f" after {gigabytes(broken.have)} of {gigabytes(broken.size)}" if broken.have and broken.size else ""
        kept = "; what came is kept, and the same command continues from there" if broken.have else "; try again"
        raise InputError(
            f"Model {quoted(model.name)}: fetching {file} from the hub stopped{have}: {broken.reason}{kept}."
        ) from broken
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise _refused(model.name, model.repo, model.revision, error, what=file) from error
    except OSError as error:
        raise InputError(
            f"Model {quoted(model.name)}: {file} cannot be fetched into {constants.HF_HUB_CACHE}: "
            f"{hub.reason_of(error)}; set HF_HUB_CACHE to a folder that can be written to."
        ) from error


def _refused(name: str, repo: str, revision: str, error: Exception, suggestion: str = "", what: str = "") -> InputError:
    """Why the hub does not give a model."""
    model, page = f"Model {quoted(name)}", f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        way = (
            "the account that you are logged in with has no access yet; ask for it on " + page
            if get_token()
            else f"ask for access on {page}, then run: hf auth login"
        )
        return InputError(f"{model} is gated: {way}")
    if isinstance(error, RevisionNotFoundError):
        return InputError(
            f"{model}: the hub's {repo} has no revision {quoted(revision)}; give one of its branches, tags or "
            "commits (40 hex digits)."
        )
    if isinstance(error, RepositoryNotFoundError):
        return InputError(
            f"{model}: the hub has no {repo}, or it is private; look at the name, or run: hf auth login.{suggestion}"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return InputError(f"{model}: {hub.reason_of(error)}; the token is not valid any more. Run: hf auth login")
    return InputError(
        f"{model}: {what or 'the list of its files'} cannot be fetched: {hub.reason_of(error)}; try again later, or "
        "give a folder with the model."
    )


def _unreachable(name: str, repo: str, trouble: hub.Trouble, suggestion: str) -> str:
    """The message for a model that is not here when the hub cannot be asked for it."""
    known = "" if suggestion else f" It is {repo} on the hub." if repo != name.partition("@")[0] else ""
    return (
        f"Model {quoted(name)} is not a folder here and not in the hub's cache, and {trouble}; {trouble.remedy}, or "
        f"give a folder with a model.{known}{suggestion}"
    )


def _teller(tell: Progress, file: str, before: int, total: int) -> hub.Received:
    """A `received` that reports the share of all weights that has arrived, a few times per second."""
    last = 0.0

    def received(n_bytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _TOLD_EVERY and before + n_bytes < total:
            return
        last = now
        done = before + n_bytes
        of = f" of {gigabytes(total)}" if total else ""
        tell(f"Fetching the weights: {gigabytes(done)}{of} ({file})", min(1.0, done / total) if total else 0.0)

    return received
