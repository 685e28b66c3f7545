"""A hub of the tests' own: serves folders on loopback with the routes and headers that huggingface_hub asks for.

server = HubServer(folder)                     # a context manager; server.url is for HF_ENDPOINT
server.add("org/name", {"config.json": b"…"})  # a commit of the branch main; "datasets/org/name" for a data set
server.breaks["model.safetensors"] = [1000]    # the next answer with this file ends after 1000 bytes

Large files (`.safetensors`, `.bin`, `.parquet`) are served as Git LFS files are: named by their SHA-256, from another
host, to which the hub refers with a signed address.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import constants

LARGE = (".safetensors", ".bin", ".parquet")


@dataclass
class Repository:
    """A repository.

    Attributes:
        commits: files by commit.
        refs: commits by branch and tag.
        gated: whether only tokens of `HubServer.members` open its files.
        private: whether it is unknown to all others.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    """A request that was served.

    Attributes:
        method, path, range: as asked; the path without its query.
        status, sent: the answer's status, and bytes of its body.
        token: whether the request carried one.
    """

    method: str
    path: str
    range: str | None
    status: int
    sent: int
    token: bool

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


class HubServer:
    """The server; requests are answered in threads, and all of them are kept in `log`.

    Attributes:
        repositories: by "org/name", or "datasets/org/name".
        moved: repositories that have another name now, by the old one.
        members: tokens that open what is gated or private; `users` are known and open neither.
        breaks: per file name, after how many bytes its next answers break off; one number is used up by each answer.
        stalls: per file name, after how many bytes its next answer stops for good; `stalled` is set then.
        status: when set, every answer has this one (503 for a hub that is down); `api_status` those of its API alone.
        delay: event that every answer waits for; None for none.
        ranges: whether `Range` is understood.
        blobs: whether the API says how large files are.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.members, self.users = {"hf_member"}, {"hf_user"}
        self.breaks: dict[str, list[int]] = {}
        self.stalls: dict[str, int] = {}
        self.stalled, self._over = threading.Event(), threading.Event()
        self.status: int | None = None
        self.api_status: int | None = None
        self.delay: threading.Event | None = None
        self.ranges, self.blobs = True, True
        self.log: list[Request] = []
        self.blobs_by_key: dict[str, tuple[str, bytes]] = {}
        self._hub, self._cdn = (ThreadingHTTPServer(("127.0.0.1", 0), self._handler()) for _ in range(2))
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            for server in (self._hub, self._cdn)
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._cdn.server_address[1]}"

    def __enter__(self) -> HubServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Nobody listens any more; connections that are open still answer."""
        self._over.set()
        if self.delay is not None:
            self.delay.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main", **kind) -> str:
        """Commit files to a branch. Returns the commit."""
        repository = self.repositories.setdefault(repo, Repository(**kind))
        content = b"".join(name.encode() + body for name, body in sorted(files.items()))
        commit = hashlib.sha1(repo.encode() + content).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[branch] = commit
        return commit

    def sent(self, file: str) -> int:
        """Bytes sent of a file in all."""
        return sum(request.sent for request in self.log if request.file == file and request.method == "GET")

    def fetched(self) -> set[str]:
        """Files of which anything was sent."""
        return {request.file for request in self.log if request.method == "GET" and "/resolve/" in request.path}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"hub": self})


class _Handler(BaseHTTPRequestHandler):
    """One request; routes as those of the hub."""

    hub: HubServer
    stalling = False
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Nothing on standard error; `HubServer.log` has it."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        self.query = parse_qs(url.query)
        if hub.delay is not None:
            hub.delay.wait(60)
        path = unquote(url.path)
        status = hub.status or (hub.api_status if path.startswith("/api/") else None)
        if status is not None:
            return self._send(status, b"")
        for old, new in hub.moved.items():
            if re.match(rf"(/api/models)?/{old}/", path):
                return self._send(307, b"", {"Location": self.path.replace(f"/{old}/", f"/{new}/", 1)})
        if found := re.fullmatch(r"/cdn/(\w+)", path):
            return self._serve_blob(*hub.blobs_by_key[found[1]])
        if found := re.fullmatch(
            r"/api/(models|datasets)/([\w.-]+(?:/[\w.-]+)??)(?:/(revision|tree|paths-info)/(.+))?", path
        ):
            return self._api(*found.groups())
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+(?:/[\w.-]+)??)/resolve/([^/]+)/(.+)", url.path):
            kind, repo, revision, file = found.groups()
            return self._resolve((kind or "") + unquote(repo), unquote(revision), unquote(file))
        return self._send(200 if path == "/" else 404, b"")

    # -- routes --------------------------------------------------------------------------------------------------------

    def _api(self, kind: str, repo: str, what: str | None, rest: str | None) -> None:
        prefix = "datasets/" if kind == "datasets" else ""
        repository = self._repository(prefix + repo)
        if repository is None:
            return None
        revision, inside = rest or "main", ""
        if what in ("tree", "paths-info"):
            revision, _, inside = revision.partition("/")
        commit = repository.commit_of(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if what == "paths-info":
            wanted = json.loads(self.body)["paths"]
            entries = [self._entry(name, files[name]) for name in wanted if name in files]
            return self._send_json(entries)
        if what == "tree":
            return self._send_json([self._entry(name, body) for name, body in files.items() if name.startswith(inside)])
        siblings = [{"rfilename": name} for name in files]
        if self.query.get("blobs") and self.hub.blobs:
            siblings = [self._sibling(name, body) for name, body in files.items()]
        return self._send_json(
            {"id": repo, "modelId": repo, "sha": commit, "private": repository.private,
             "gated": repository.gated and "manual", "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
        )  # fmt: skip

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        repository = self._repository(repo)
        if repository is None:
            return None
        if repository.gated and self._token() not in self.hub.members:
            return self._refuse(403 if self._token() else 401, "GatedRepo", f"Access to model {repo} is restricted.")
        commit = repository.commit_of(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        body = repository.commits[commit].get(file)
        if body is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(file, body)}"'}
        if not file.endswith(LARGE):
            return self._serve(file, body, headers)
        key = secrets.token_hex(8)
        self.hub.blobs_by_key[key] = (file, body)
        headers |= {"X-Linked-Size": str(len(body)), "X-Linked-Etag": headers["ETag"]}
        return self._send(302, b"", headers | {"Location": f"{self.hub.cdn_url}/cdn/{key}"})

    def _serve_blob(self, file: str, body: bytes) -> None:
        """From the other host, which must not learn the token."""
        if self._token():
            return self._send(400, b"a signed address and a token")
        return self._serve(file, body, {})

    def _serve(self, file: str, body: bytes, headers: dict[str, str]) -> None:
        range_ = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if range_ is None or not self.hub.ranges:
            return self._send(200, body, headers, file)
        first, last = int(range_[1]), min(int(range_[2] or len(body) - 1), len(body) - 1)
        if first >= len(body):
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(body)}"})
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
        return self._send(206, body[first : last + 1], headers, file)

    # -- who asks ------------------------------------------------------------------------------------------------------

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repository(self, repo: str) -> Repository | None:
        """The repository as far as the asker may know of it; otherwise the answer has been sent."""
        token = self._token()
        if token and token not in self.hub.members | self.hub.users:
            self._refuse(401, None, "Invalid credentials in Authorization header")
            return None
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and token not in self.hub.members):
            # Who is nobody is not told whether it exists.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    # -- answers -------------------------------------------------------------------------------------------------------

    def _sibling(self, name: str, body: bytes) -> dict:
        lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
        large = {"lfs": lfs} if name.endswith(LARGE) else {}
        return {"rfilename": name, "size": len(body), "blobId": _git_id(body)} | large

    def _entry(self, name: str, body: bytes) -> dict:
        lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
        large = {"lfs": lfs} if name.endswith(LARGE) else {}
        return {"type": "file", "path": name, "size": len(body), "oid": _git_id(body)} | large

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, b"", {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, file: str | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0 if self.command == "HEAD" else self._how_much(file, len(body))
        path = self.path.partition("?")[0] if file is None or "/resolve/" in self.path else f"/cdn/resolve/{file}"
        self.hub.log.append(
            Request(self.command, path, self.headers.get("Range"), status, sent, self._token() is not None)
        )
        self.wfile.write(body[:sent])
        if sent < len(body) and self.command != "HEAD":
            self.wfile.flush()
            self.close_connection = True
            if self.stalling:
                self.hub.stalled.set()
                self.hub._over.wait(60)

    def _how_much(self, file: str | None, size: int) -> int:
        """How many bytes of a body are sent before the connection ends."""
        breaks = self.hub.breaks.get(file or "")
        stall = self.hub.stalls.pop(file or "", None)
        self.stalling = stall is not None
        if stall is not None:
            return min(stall, size)
        return min(breaks.pop(0), size) if breaks else size


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _etag(file: str, body: bytes) -> str:
    return hashlib.sha256(body).hexdigest() if file.endswith(LARGE) else _git_id(body)


def use(url: str, cache: Path, monkeypatch) -> None:
    """Let this process ask the hub at an address; what HF_ENDPOINT and HF_HUB_CACHE say is read at import."""
    values = {
        "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache.parent / "token"), "HF_HUB_OFFLINE": False,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
