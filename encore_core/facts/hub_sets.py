"""Data sets of facts on the Hugging Face hub, by name: where they are, and fetching them.

A fetched file is kept in the data folder, `facts/NAME.json`, and `facts/fetched.json` records which commit it is of and
its SHA-256. A set with a pinned revision is always fetched at it. The others are fetched at the main branch, and from
then on at the commit recorded, so that a name means the same file every time. A file with another SHA-256 than the
pinned or recorded one is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from encore_core import hub
from encore_core.errors import InputError, first_line, quoted
from encore_core.storage import data_folder, gigabytes, remove, replacing

MAIN = "main"
RECORD = "fetched.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSet:
    """A data set of facts on the hub.

    Attributes:
        name: what it is called here.
        repo, file: data set and file on the hub.
        about: what it holds, in a few words.
        licence: as the hub gives it.
        revision: the commit that is fetched; None where none is pinned.
        sha256: of the file; None where it is not known beforehand.
    """

    name: str
    repo: str
    file: str
    about: str
    licence: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def place(self) -> Path:
        """Where its file is kept once it has been fetched."""
        return sets_folder() / f"{self.name}{PurePosixPath(self.file).suffix}"


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched.

    Attributes:
        path: where it is.
        repo, file, revision: what it is; the revision is a commit.
        sha256, bytes: of its content.
        new: whether it was fetched just now.
    """

    path: Path
    repo: str
    file: str
    revision: str
    sha256: str
    bytes: int
    new: bool

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self) | {"path": str(self.path)}


# Both commits are from the hub's own pages, which show no digests of these files. HalluEditBench's file names are those
# of its copy on GitHub.
_KNOWEDIT = ("zjunlp/KnowEdit", "c3a6bccb5fc37a59dea3197ac36526d44606acd0")
_HALLU = ("llm-editing/HalluEditBench", "8698cefef2c2ec107df99bc361e6f403100131de")


def _knowedit(name: str, file: str, about: str) -> HubSet:
    repo, revision = _KNOWEDIT
    return HubSet(f"knowedit-{name}", repo, f"benchmark/{file}", f"KnowEdit: {about}", "mit", revision)


def _hallu(topic: str, about: str) -> HubSet:
    repo, revision = _HALLU
    file = f"data/questions/hallucination_final/meta_llama_3_8b_instruct/{topic}.csv"
    return HubSet(f"hallueditbench-{topic.replace('_', '-')}", repo, file, f"HalluEditBench: {about}", "mit", revision)


HUB_SETS: Mapping[str, HubSet] = {
    one.name: one
    for one in (
        _knowedit("counterfact", "wiki_counterfact/test_cf.json", "counterfactual facts from Wikidata"),
        _knowedit("zsre", "ZsRE/ZsRE-test-all.json", "zsRE with portability questions"),
        _hallu("places_city", "what Llama 3 gets wrong about cities"),
        _hallu("human_scientist", "what Llama 3 gets wrong about scientists"),
        _hallu("health_symptom", "what Llama 3 gets wrong about symptoms"),
        HubSet(
            "wikibigedit",
            "lukasthede/WikiBigEdit",
            "wiki_big_edit_20240201_20240220.json",
            "WikiBigEdit: Wikidata's changes of February 2024",
            "apache-2.0",
        ),
    )
}
"""The data sets known by name."""


@dataclass(frozen=True)
class Elsewhere:
    """A data set that is not fetched by name, because no file of it is known to us at a fixed address.

    Attributes:
        name: what it is called here.
        about, licence: as for `HubSet`.
        where: the address at which its authors publish it.
        form: what its records look like to us, and what that asks for.
    """

    name: str
    about: str
    licence: str
    where: str
    form: str = ""

    def __str__(self) -> str:
        return (
            f"{self.name} is not fetched by name: its authors publish it at {self.where}. Download a file of it, and "
            f"load that: encore facts convert FILE --to jsonl --out facts.jsonl{self.form}."
        )


ELSEWHERE: Mapping[str, Elsewhere] = {
    one.name: one
    for one in (
        Elsewhere("mquake", "MQuAKE: multi-hop questions", "mit", "https://github.com/princeton-nlp/MQuAKE"),
        Elsewhere("rippleedits", "RippleEdits: what follows from an edit", "mit",
                  "https://github.com/edenbiran/RippleEdits"),
        Elsewhere("qaedit", "QAEdit: questions that people asked", "apache-2.0",
                  "https://huggingface.co/datasets/WenDingY/QAEdit"),
        Elsewhere("ultraeditbench", "UltraEditBench: two million facts without subjects", "not known here",
                  "https://huggingface.co/datasets/XiaojieGu/UltraEditBench", " --find-subjects"),
    )
}  # fmt: skip
"""Data sets of the field that people have to download themselves; the reader takes their files as they are."""


def listed() -> list[dict[str, Any]]:
    """Every data set as plain JSON values, those that were fetched with the file; `where` is None for those that can
    be fetched.

    Raises:
        InputError: when the record of what was fetched cannot be read.
    """
    rows = []
    for one in HUB_SETS.values():
        here = fetched(one)
        rows.append(asdict(one) | {"fetched": here and here.as_dict(), "where": None})
    for other in ELSEWHERE.values():
        row = {"repo": None, "file": None, "revision": None, "sha256": None, "fetched": None}
        rows.append({"name": other.name, "about": other.about, "licence": other.licence, **row, "where": other.where})
    return rows


def sets_folder() -> Path:
    """Where fetched data sets are kept."""
    return data_folder() / "facts"


def find_set(name: str) -> HubSet:
    """The data set of a name.

    Raises:
        InputError: when there is none.
    """
    if name in ELSEWHERE:
        raise InputError(f"Data set {ELSEWHERE[name]}")
    if name not in HUB_SETS:
        raise InputError(f"Data set {quoted(name)} is unknown; choose one of {', '.join(HUB_SETS)}.")
    return HUB_SETS[name]


def fetched(wanted: HubSet) -> Fetched | None:
    """A data set as it was fetched before; None if it was not, or its file is not there any more or has changed."""
    known = _records().get(wanted.name, {})
    path = wanted.place
    if not path.is_file() or known.get("repo") != wanted.repo or known.get("file") != wanted.file:
        return None
    digest = digest_of(path)
    if known.get("sha256") != digest or wanted.revision not in (None, known.get("revision")):
        return None
    return Fetched(path, wanted.repo, wanted.file, str(known.get("revision")), digest, path.stat().st_size, False)


def fetch_set(wanted: HubSet, received: hub.Received = lambda n_bytes: None, update: bool = False) -> Fetched:
    """A data set's file, fetched from the hub unless it is here.

    Args:
        wanted: from `find_set`.
        received: called with how many bytes of it have arrived.
        update: for a set without a pinned revision, take what the hub's main branch has now.

    Raises:
        InputError: when the hub cannot be reached or refuses it, the download breaks, the file is another than the one
            pinned or fetched before, or it cannot be written.
    """
    update = update and wanted.revision is None
    here = None if update else fetched(wanted)
    if here is not None:
        return here
    known = {} if update else _records().get(wanted.name, {})
    before = known if (known.get("repo"), known.get("file")) == (wanted.repo, wanted.file) else {}
    revision = wanted.revision or before.get("revision") or MAIN
    source = _from_hub(wanted, revision, received, update)
    digest, commit = digest_of(source), _commit_of(source, revision)
    expected = wanted.sha256 or (before.get("sha256") if before.get("revision") == commit else None)
    if expected not in (None, digest):
        raise InputError(
            f"Data set {wanted.name!r}: {wanted.file} of {wanted.repo} at {commit[:8]} has the SHA-256 {digest}, and "
            f"{expected} was expected; it is not the file that was meant, so it is not used."
        )
    with replacing(wanted.place) as part:
        shutil.copyfile(source, part)
    found = Fetched(wanted.place, wanted.repo, wanted.file, commit, digest, source.stat().st_size, True)
    _record(wanted, found)
    return found


def size_on_hub(wanted: HubSet) -> int | None:
    """Bytes of a data set's file, as the hub says; None where it cannot be asked or does not say."""
    if hub.hub_trouble() is not None:
        return None
    try:
        return hub.file_size(wanted.repo, wanted.file, wanted.revision or MAIN, "dataset")
    except (HfHubHTTPError, httpx2.HTTPError, OSError):  # fetching it will say why
        return None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _from_hub(wanted: HubSet, revision: str, received: hub.Received, update: bool) -> Path:
    """The file in the hub's cache, fetched first if it is not there."""
    about = f"Data set {wanted.name!r}"
    cached = None if update else hub.cached_file(wanted.repo, wanted.file, revision, "dataset")
    if cached is not None:
        return cached
    trouble = hub.hub_trouble()
    if trouble is not None:
        raise InputError(f"{about} has not been fetched yet, and {trouble}; {trouble.remedy}.")
    try:
        if update:  # the cache would answer with the commit that it knows for the branch
            revision = hub.newest_commit(wanted.repo, wanted.file, revision, "dataset")
        return hub.fetch_file(wanted.repo, wanted.file, revision, "dataset", received)
    except hub.BrokenDownload as broken:
        have = f" after {gigabytes(broken.have)} of {gigabytes(broken.size)}" if broken.have and broken.size else ""
        kept = "; what came is kept, and the same command continues from there" if broken.have else "; try again"
        raise InputError(f"{about}: fetching {wanted.file} stopped{have}: {broken.reason}{kept}.") from broken
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise InputError(
            f"{about}: {wanted.file} cannot be fetched from {wanted.repo} at {revision[:8]} ({hub.reason_of(error)}); "
            f"see {constants.ENDPOINT}/datasets/{wanted.repo}."
        ) from error
    except OSError as error:
        raise InputError(
            f"{about}: {wanted.file} cannot be fetched into {constants.HF_HUB_CACHE}: {hub.reason_of(error)}; set "
            "HF_HUB_CACHE to a folder that can be written to."
        ) from error


def _commit_of(source: Path, revision: str) -> str:
    """The commit of a file in the hub's cache, which keeps each in a folder `snapshots/COMMIT`."""
    parts = source.parts
    named = [parts[at + 1] for at, part in enumerate(parts[:-1]) if part == "snapshots"]
    return next((part for part in reversed(named) if _COMMIT.fullmatch(part)), revision)


def _records() -> dict[str, dict[str, Any]]:
    """What is known of the files fetched so far, by name."""
    try:
        found = json.loads((sets_folder() / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{sets_folder() / RECORD} cannot be read ({first_line(error)}); delete it, and fetch the data sets again."
        ) from error
    rows = found.items() if isinstance(found, dict) else ()
    return {name: row for name, row in rows if isinstance(row, dict)}


def _record(wanted: HubSet, found: Fetched) -> None:
    row = {
        key: value for key, value in found.as_dict().items() if key in ("repo", "file", "revision", "sha256", "bytes")
    }
    try:
        with replacing(sets_folder() / RECORD) as part:
            part.write_text(json.dumps(_records() | {wanted.name: row}, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        remove(wanted.place)  # without its record nobody would know which file it is
        raise
