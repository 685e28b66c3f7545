"""The Hugging Face hub: whether it answers, why it refuses, and fetching a file so that a broken download can resume.

huggingface_hub deletes a partial file when a download finally fails. A model's weights may be gigabytes, so they are
fetched here, into huggingface_hub's cache and under its names: first to `blobs/ETAG.encore-part`, which is kept when
the download breaks off, and the next try asks for the rest (`Range`). huggingface_hub then finds the whole file there,
like every file of its cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from encore_core.errors import first_line

Received = Callable[[int], None]
"""`received(n_bytes)`: how many bytes of a file are here."""

PAUSES = (1.0, 2.0, 4.0)
"""Seconds before a broken download is resumed; this many tries in a row may bring nothing."""

PART = ".encore-part"


@dataclass(frozen=True)
class Trouble:
    """Why the hub cannot be asked for anything now.

    Attributes:
        reason: a sentence without its full stop.
        remedy: what helps, in the imperative.
    """

    reason: str
    remedy: str

    def __str__(self) -> str:
        return self.reason


class BrokenDownload(Exception):
    """A download that broke off; what came is kept.

    Attributes:
        have, size: bytes that are here, and bytes of the whole file (None where the hub does not say).
        reason: why it ended, as a sentence without its full stop.
    """

    def __init__(self, have: int, size: int | None, reason: str):
        super().__init__(reason)
        self.have, self.size, self.reason = have, size, reason


# -- whether it answers, and why not -----------------------------------------------------------------------------------


def hub_host() -> str:
    """The hub's host name, which HF_ENDPOINT can change."""
    return urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT


def hub_trouble(timeout_s: float = 5.0) -> Trouble | None:
    """Why the hub cannot be asked for anything now; None when it answers.

    The hub's client would retry for minutes before failing, and a look-up of a host name has no time-out, so this runs
    in a thread.
    """
    if constants.is_offline_mode():
        return _offline()
    said: list[Trouble | None] = []

    def ask() -> None:
        try:
            response = get_session().request("HEAD", constants.ENDPOINT, timeout=timeout_s, follow_redirects=False)
            said.append(Trouble(_answers(response.status_code), _LATER) if response.status_code >= 500 else None)
        except Exception as error:  # whatever it is, it is the answer
            said.append(trouble_of(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return said[0] if said else Trouble(f"the hub ({hub_host()}) does not answer within {timeout_s:g} s", _NETWORK)


def trouble_of(error: BaseException) -> Trouble:
    """What `hub_trouble` says, from what the hub's client raised."""
    chain = chain_of(error)
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return _offline()
    answered = any(isinstance(link, HfHubHTTPError) for link in chain)
    return Trouble(reason_of(error), _LATER if answered else _NETWORK)


_LATER, _NETWORK = "try again later", "look at the network (and at HF_ENDPOINT, if it is set)"


def _offline() -> Trouble:
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return Trouble(f"{name} is set, so the hub is not asked", f"unset {name}")


def reason_of(error: BaseException) -> str:
    """Why the hub did not give something, from whatever its client raised; a sentence without its full stop."""
    hub = f"the hub ({hub_host()})"
    for link in chain_of(error):
        if isinstance(link, HfHubHTTPError):
            return _answers(link.response.status_code, link.response.headers.get("X-Error-Message"))
        if isinstance(link, OfflineModeIsEnabled):
            return _offline().reason
        if isinstance(link, httpx2.TimeoutException):
            return f"{hub} does not answer in time"
        if isinstance(link, httpx2.ConnectError):
            return f"{hub} cannot be reached ({re.sub(r'^.Errno -?[0-9]+. ', '', first_line(link))})"
        if isinstance(link, httpx2.TransportError):
            return f"the connection to {hub} broke off"
        if isinstance(link, OSError) and link.errno == errno.ENOSPC:
            return "the disk is full"
    return first_line(error)


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _answers(status: int, message: str | None = None) -> str:
    known = {one.value: one.phrase for one in HTTPStatus}
    said = message or known.get(status, "")
    return f"the hub ({hub_host()}) answers {status}{f' {said}' if said else ''}"


# -- one file ----------------------------------------------------------------------------------------------------------


def cached_file(repo: str, file: str, revision: str, kind: str = "model") -> Path | None:
    """A file of a repository, if it is in the hub's cache."""
    found = try_to_load_from_cache(repo, file, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def newest_commit(repo: str, file: str, revision: str, kind: str = "model") -> str:
    """The commit that a branch or tag has now, as the hub says; the cache is not asked.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: when the hub refuses to say, or does not answer.
        OSError: when it says something else.
    """
    about = _about(repo, file, revision, kind)
    if about.commit_hash is None:
        raise OSError(f"{hub_host()} does not say which commit {file} is of, so it does not speak the hub's language")
    return about.commit_hash


def file_size(repo: str, file: str, revision: str, kind: str = "model") -> int | None:
    """Bytes of a file, as the hub says; None where it does not.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: when the hub refuses to say, or does not answer.
    """
    return _about(repo, file, revision, kind).size


def _about(repo: str, file: str, revision: str, kind: str):
    """What the hub says of a file without sending it."""
    url = hf_hub_url(repo, file, revision=revision, repo_type=kind, endpoint=constants.ENDPOINT)
    return get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, endpoint=constants.ENDPOINT)


def repository_folder(repo: str, kind: str = "model") -> Path:
    """The folder of a repository in the hub's cache, with `blobs/`, `refs/` and `snapshots/COMMIT/`."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)


def partly_here(repo: str, kind: str = "model") -> int:
    """Bytes in the cache of a repository's incomplete files."""
    return sum(part.stat().st_size for part in (repository_folder(repo, kind) / "blobs").glob(f"*{PART}"))


def fetch_file(
    repo: str, file: str, revision: str, kind: str = "model", received: Received = lambda n_bytes: None
) -> Path:
    """A file of a repository from the hub's cache, fetched first if it is not there.

    Args:
        repo: as "organisation/name".
        file: its name in the repository.
        revision: commit, branch or tag.
        kind: "model" or "dataset".
        received: called with how much of it is here.

    Returns:
        its path in the cache.

    Raises:
        BrokenDownload: when the connection broke and could not be resumed, or the disk is full; try again later.
        HfHubHTTPError, httpx2.HTTPError: when the hub refuses it, or does not answer.
        OSError: when the cache cannot be written to.
    """
    here = cached_file(repo, file, revision, kind)
    if here is not None:
        return here
    where = {"repo_type": kind, "endpoint": constants.ENDPOINT}
    url = hf_hub_url(repo, file, revision=revision, **where)
    about = _about(repo, file, revision, kind)
    if about.etag is None or about.commit_hash is None or Path(about.etag).name != about.etag:
        raise OSError(f"{hub_host()} does not say which commit {file} is of, so it does not speak the hub's language")
    folder = repository_folder(repo, kind)
    blob = folder / "blobs" / about.etag
    lock = folder.parent / ".locks" / folder.name / f"{about.etag}.lock"
    for place in (blob, lock):
        place.parent.mkdir(parents=True, exist_ok=True)
    # huggingface_hub takes the same lock for this file, so two programs never fetch it at the same time.
    with WeakFileLock(lock):
        if not blob.exists():
            part = blob.with_name(blob.name + PART)
            resumed = _download(url, part, about.size, received)
            if resumed:
                _check(part, about.etag, file)
            part.replace(blob)
    return Path(hf_hub_download(repo, file, revision=about.commit_hash, **where))


def _download(url: str, part: Path, size: int | None, received: Received) -> bool:
    """Fetch `part` to its full size. Returns whether it was put together from more than one response."""
    if size is None or _size(part) > size:
        part.unlink(missing_ok=True)
    answers, in_vain = int(_size(part) > 0), 0
    while size is None or _size(part) < size or not part.exists():
        before = _size(part)
        answers += 1
        try:
            _receive(url, part, before, received)
            if size is None or _size(part) >= size:
                break
            raise httpx2.RemoteProtocolError("the answer ended early")
        except (httpx2.TransportError, HfHubHTTPError, OSError) as error:
            in_vain = 0 if _size(part) > before else in_vain + 1
            if not _passes(error) or in_vain > len(PAUSES):
                raise BrokenDownload(_size(part), size, reason_of(error)) from error
            time.sleep(PAUSES[max(0, in_vain - 1)])
    return answers > 1


def _receive(url: str, part: Path, before: int, received: Received) -> None:
    """Append what the hub sends of a file to what is here of it."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if before:
        headers["Range"] = f"bytes={before}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        # A server without support for ranges sends everything again.
        here = before if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        with part.open("ab" if here else "wb") as opened:
            for chunk in response.iter_bytes():
                opened.write(chunk)
                here += len(chunk)
                received(here)


def _passes(error: BaseException) -> bool:
    """Whether an error may pass soon: a broken connection, or a busy server."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _check(part: Path, etag: str, file: str) -> None:
    """Check that a file that came in pieces is the one asked for; large files are named by their SHA-256."""
    if len(etag) != 64:
        return
    with part.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != etag:
        part.unlink()
        raise BrokenDownload(0, None, f"{file} came damaged (its SHA-256 is {digest[:8]}…, not {etag[:8]}…)")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
