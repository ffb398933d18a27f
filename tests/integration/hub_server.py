"""An HTTP server with the endpoints of a hub that `huggingface_hub` uses: account, repositories, uploads, commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_token_of_the_tests"


@dataclass
class Hub:
    """Contents of the hub."""

    repositories: dict[str, bool] = field(default_factory=dict)
    """Privacy by name of the repository."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by `OWNER/NAME/path`."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Uploaded large files by SHA-256; a commit turns them into files."""
    address: str = ""
    metadata_problem: str = ""
    """Return the errors in the header of a README.md; empty if it is valid."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that listens on 127.0.0.1 until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if not self._knows_the_token():
            return
        if self.path == "/api/whoami-v2":
            self._answer({"name": "my-team", "type": "user"})
        elif (name := self.path.removeprefix("/api/models/").partition("/revision")[0]) in self.hub.repositories:
            self._answer({"id": name, "private": self.hub.repositories[name], "siblings": []})
        else:
            self._answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._knows_the_token():
            return
        match self.path.removeprefix("/api/").split("/"):
            case ["repos", "create"]:
                self._create(json.loads(body))
            case ["validate-yaml"]:
                problem = self.hub.metadata_problem
                errors = [{"message": problem}] if problem else []
                self._answer({"errors": errors, "warnings": []}, 400 if problem else 200)
            case ["models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                self._answer({"files": [_mode(file["path"]) for file in files]})
            case ["models", owner, name, "commit", _]:
                self._commit(f"{owner}/{name}", body)
            case [*_, "info", "lfs", "objects", "batch"]:
                self._answer({"objects": [self._upload_of(thing) for thing in json.loads(body)["objects"]]})
            case _:
                self._answer({"error": f"no such place {self.path}"}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(body).hexdigest()
        assert self.path == f"/blobs/{digest}"
        self.hub.blobs[digest] = body
        self._answer({})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.hub.address}/{name}"
        if name in self.hub.repositories:
            self._answer({"error": "You already created this model repo", "url": url}, 409)
            return
        self.hub.repositories[name] = wanted["visibility"] == "private"
        self._answer({"url": url})

    def _commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[f"{name}/{value['path']}"] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.hub.files[f"{name}/{value['path']}"] = self.hub.blobs[value["oid"]]
        url = f"{self.hub.address}/{name}/commit/{'0' * 40}"
        self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})

    def _upload_of(self, thing: dict[str, Any]) -> dict[str, Any]:
        return {**thing, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{thing['oid']}"}}}

    def _knows_the_token(self) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not known:
            self._answer({"error": "Invalid user token."}, 401)
        return known

    def _answer(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}
