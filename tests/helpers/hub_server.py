"""A server that speaks as much of the hub's protocol as a download or an upload takes, of repositories in memory.

`hf_good` is the token that may write, to whatever is called me/…; `hf_read` may read alone.

It runs as a program of its own beside the tests: `HF_ENDPOINT` is read when huggingface_hub is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repository:
    """Files by revision. `breaks` is how often the connection breaks in the middle of the weights, `gated` whether it
    wants a token."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    breaks: int = 0
    private: bool = False
    kind: str = "model"

    def commit(self, revision: str) -> str | None:
        commits = {
            name: hashlib.sha1(repr((name, sorted(self.revisions[name]))).encode()).hexdigest()
            for name in self.revisions
        }
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What is on it, and what it was asked: method, path and range."""

    repositories: dict[str, Repository]
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    url: str = ""


@contextmanager
def serving(repositories: dict[str, Repository]) -> Iterator[Hub]:
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range")))
            api = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?(/.*)?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            repository = hub.repositories.get(found[1]) if found else None
            if repository is None:
                return self.answer(401, error="RepoNotFound")
            commit = repository.commit((found[2] or "main").replace("%2F", "/"))
            if commit is None:
                return self.answer(404, error="RevisionNotFound")
            if api:
                return self.tell(commit, found[1], repository, tree="/tree/" in path)
            if repository.gated and self.headers.get("Authorization") != "Bearer hf_good":
                return self.answer(403 if self.headers.get("Authorization") else 401, error="GatedRepo")
            data = repository.files(commit).get(found[3])
            if data is None:
                return self.answer(404, error="EntryNotFound")
            return self.send(commit, data, repository, found[3])

        def do_PUT(self) -> None:
            hub.blobs[self.path.rpartition("/")[2]] = self.body()
            self.answer(200)

        def do_POST(self) -> None:
            path, body = self.path.partition("?")[0], self.body()
            hub.asked.append((self.command, path, None))
            if path == "/api/validate-yaml":
                return self.answer(200, b'{"errors": [], "warnings": []}')
            token = self.headers.get("Authorization")
            if token != "Bearer hf_good":
                return self.answer(403 if token == "Bearer hf_read" else 401, b'{"error": "hf_good is what may"}')
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if asked["organization"] != "me":
                    return self.answer(403)
                is_there = name in hub.repositories
                private = asked.get("private", False) or asked.get("visibility") == "private"
                made = Repository({"main": {}}, private=private, kind=asked.get("type") or "model")
                hub.repositories.setdefault(name, made)
                return self.answer(409 if is_there else 200, json.dumps({"url": f"{hub.url}/{name}"}).encode())
            if path.endswith(".git/info/lfs/objects/batch"):
                asked = json.loads(body)["objects"]
                actions = [{**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}} for each in asked]
                return self.answer(200, json.dumps({"transfer": "basic", "objects": actions}).encode())
            name, what = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
            if what == "preupload":
                files = [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith((".safetensors", ".sqlite")) else "regular",
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
                return self.answer(200, json.dumps({"files": files}).encode())
            own = hub.repositories[name].revisions["main"]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    own[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    own[value["path"]] = hub.blobs[value["oid"]]
            commit = hub.repositories[name].commit("main")
            answer = {"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit}
            return self.answer(200, json.dumps(answer).encode())

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def tell(self, commit: str, name: str, repository: Repository, tree: bool) -> None:
            files = repository.files(commit)
            if tree:
                answer: Any = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
            else:
                siblings = [{"rfilename": path} for path in files]
                answer = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
            self.answer(200, json.dumps(answer).encode())

        def send(self, commit: str, data: bytes, repository: Repository, name: str) -> None:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            part = data[int(start[1]) :] if start else data
            if start:
                headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            if self.command == "GET" and repository.breaks and name == "model.safetensors":
                repository.breaks -= 1
                self.answer(206 if start else 200, part, headers, sent=0 if start else len(part) // 2)
                self.close_connection = True
                return
            self.answer(206 if start else 200, part, headers)

        def answer(
            self, status: int, body: bytes = b"", headers: Any = (), *, error: str = "", sent: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                self.send_header(name, value)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:sent])
                self.wfile.flush()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
