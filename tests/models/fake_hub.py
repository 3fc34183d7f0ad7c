"""A server on 127.0.0.1 that answers like the Hugging Face Hub: redirects, commits, permissions, errors."""

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READER = "hf_readerXXXXXXXXXXXXXXXXXXXXXXXXX"
"""The token with access to the gated repository."""


@dataclass
class FakeHub:
    """The repository org/model, with branches and commits; org/gated has the same, for READER only."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> file -> content."""
    branches: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Host, path and Authorization header of every request."""
    cut: str | None = None
    """'connection': bodies end early. 'size': they are complete, but shorter than the hub has announced."""
    status: int | None = None
    """Answer every request with this status."""

    def __post_init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.port = self.server.server_port

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit, move the branch to it, and return its hash."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        hub, token = self.hub, self.headers["Authorization"]
        hub.requests.append((self.headers["Host"], self.path, token))
        if hub.status:
            return self._answer(hub.status)
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = hub.branches.get(revision, revision)
        if repo == "org/gated" and token != f"Bearer {READER}":
            return self._answer(403 if token else 401, "GatedRepo")
        if repo not in ("org/model", "org/gated"):
            return self._answer(404, "RepoNotFound") if token else self._answer(401)
        if commit not in hub.commits:
            return self._answer(404, "RevisionNotFound")
        if file not in hub.commits[commit]:
            return self._answer(404, "EntryNotFound", {"X-Repo-Commit": commit})
        body = hub.commits[commit][file]
        storage = f"http://localhost:{hub.port}/storage/{commit}/{file}"
        headers = {"X-Repo-Commit": commit, "Location": storage, "X-Linked-Size": str(len(body))}
        return self._answer(302, None, headers | {"X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append((self.headers["Host"], self.path, self.headers["Authorization"]))
        if not self.path.startswith("/storage/"):
            return self._answer(404)
        if self.headers["Range"]:  # a download that continues
            return self._answer(500)
        commit, _, file = self.path.removeprefix("/storage/").partition("/")
        body = hub.commits[commit][file]
        sent = body[: len(body) // 2] if hub.cut else body
        self._answer(200, None, {"Content-Length": str(len(sent if hub.cut == "size" else body))})
        self.wfile.write(sent)
        self.close_connection = True

    def _answer(self, status: int, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**({"X-Error-Code": code} if code else {}), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing."""
