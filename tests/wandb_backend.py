"""A W&B server on this machine, as far as an online run needs one."""

from __future__ import annotations

import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

KEY = "local-" + "a" * 40
ENTITY = "somebody"

# What it does with an alert: takes it; answers 500; answers that it does not want it; hangs up; or
# leaves the caller waiting.
Manner = Literal["takes", "fails", "refuses", "drops", "hangs"]


class WandbBackend:
    """Keeps what the runs of a process send."""

    def __init__(self) -> None:
        self.manner: Manner = "takes"
        self.attempts = 0  # at an alert, taken or not
        self.alerts: list[dict[str, Any]] = []  # variables of each that was taken
        self.rows: dict[int, dict[str, Any]] = {}  # of the history, by their place in it
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.tags: list[str] = []
        self.operations: dict[str, int] = defaultdict(int)
        self.views: list[dict[str, Any]] = []  # variables of each workspace that was saved
        self.exited = False
        self.dead = False
        self.released = threading.Event()  # those that were left waiting
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of the run, in order."""
        return [self.rows[place] for place in sorted(self.rows)]

    def die(self) -> None:
        """Answer nobody any more; new connections are refused."""
        if not self.dead:
            self.dead = True
            self.released.set()
            self._server.shutdown()
            self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None hangs up."""
        if path.endswith("/file_stream"):
            self._stream(body)
            return 200, {}
        if path != "/graphql":
            return 200, {}
        operation = body["query"].split("(")[0].split("{")[0].split()[-1]
        variables = body.get("variables") or {}
        self.operations[operation] += 1
        if operation == "NotifyScriptableRunAlert":
            return self._alert(variables)
        if operation == "UpsertBucket":
            self._keep(variables)
        if operation == "UpsertView2":
            self.views.append(variables)
        return 200, {"data": _DATA.get(operation, lambda _: {})({"url": self.url, **variables})}

    def _alert(self, variables: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        self.attempts += 1
        if self.manner == "fails":
            return 500, {}
        if self.manner == "hangs":
            self.released.wait()
        if self.manner in ("hangs", "drops"):
            return None
        taken = self.manner == "takes"
        if taken:
            self.alerts.append(variables)
        return 200, {"data": {"notifyScriptableRunAlert": {"success": taken}}}

    def _keep(self, variables: dict[str, Any]) -> None:
        config = json.loads(variables.get("config") or "{}")
        self.config |= {name: entry["value"] for name, entry in config.items()}
        self.tags = variables.get("tags") or self.tags

    def _stream(self, body: dict[str, Any]) -> None:
        files = body.get("files") or {}
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(history["content"], start=history["offset"]):
            self.rows[place] = json.loads(line)  # a chunk that is sent again is the same rows
        for line in files.get("wandb-summary.json", {"content": []})["content"]:
            self.summary = json.loads(line)
        self.exited |= bool(body.get("complete"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nothing: wandb's process ends without a word."""


def _bucket(variables: dict[str, Any]) -> dict[str, Any]:
    project = {"id": "P", "name": variables.get("project"), "entity": {"id": "E", "name": ENTITY}}
    bucket = {"id": "B", "name": variables.get("name"), "displayName": "a-run", "project": project}
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


def _files(variables: dict[str, Any]) -> dict[str, Any]:
    places = [
        {"name": name, "uploadUrl": f"{variables['url']}/upload/{name}"}
        for name in variables["files"]
    ]
    return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": places}}


_DATA = {  # of the operations whose answer is read
    "Viewer": lambda _: {
        "viewer": {
            "id": "V",
            "entity": ENTITY,
            "username": ENTITY,
            "flags": "{}",
            "teams": {"edges": []},
        },
        "serverInfo": {"cliVersionInfo": {"max_cli_version": "1.0"}},
    },
    "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
    "ProbeServerCapabilities": lambda _: {
        "QueryType": {"fields": [{"name": "serverInfo"}]},
        "MutationType": {"fields": []},
        "ServerInfoType": {"fields": [{"name": "cliVersionInfo"}]},
    },
    "UpsertBucket": _bucket,
    "CreateRunFiles": _files,
    "UpsertView2": lambda asked: {
        "upsertView": {"view": {"id": "W", "name": asked["name"]}, "inserted": True}
    },
}


def _handler(backend: WandbBackend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            asked = json.loads(body) if is_json and body else {}
            answer = None if backend.dead else backend.answer(self.path, asked)
            if answer is None or backend.dead:
                self.close_connection = True
                return
            status, content = answer
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PUT = do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def online_wandb(folder: Path) -> Iterator[WandbBackend]:
    """Runs begun inside are those of a backend of their own; wandb knows nothing of it after."""
    import wandb

    backend = WandbBackend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "online")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_BASE_URL", backend.url)
        patch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # it keeps the environment of its first use
        try:
            yield backend
        finally:
            wandb.teardown()
            backend.die()
