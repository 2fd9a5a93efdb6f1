"""Receivers on loopback: of HTTP, and of mail."""

from __future__ import annotations

import contextlib
import email
import email.policy
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from email.message import EmailMessage, Message
from typing import Any

PATIENCE = 60.0  # seconds that a server which hangs waits for the end of its test


class Web(http.server.ThreadingHTTPServer):
    """Answers every POST with `status`, or hangs; keeps what it has taken, parsed, in `bodies`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.torn_headers = False
        self.hangs = False
        self.let_go = threading.Event()
        self.requests = 0
        self.bodies: list[Any] = []
        self.heads: list[Message] = []  # of every POST

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: Any) -> None:
        """A client that does not wait is no news."""


class _Post(http.server.BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        self.server.heads.append(self.headers)
        if self.server.hangs:
            self.server.let_go.wait(PATIENCE)
            return
        if self.server.status == 200:
            self.server.bodies.append(json.loads(body, parse_constant=_refuse))
        self._answer()

    def do_GET(self) -> None:
        self.server.requests += 1
        self._answer()

    def _answer(self) -> None:
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if self.server.torn_headers:
            self._headers_buffer.append(b"no header at all\r\n")
        if "Content-Length" not in self.server.headers:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


class Mail(socketserver.ThreadingTCPServer):
    """Takes mail without encryption or login, as much of SMTP as that needs."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.refuses = False
        self.messages: list[EmailMessage] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Smtp(socketserver.StreamRequestHandler):
    server: Mail

    def handle(self) -> None:
        self._say("220 loopback")
        while line := self.rfile.readline():
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"QUIT":
                self._say("221 bye")
                return
            if verb == b"MAIL" and self.server.refuses:
                self._say("550 not today")
            elif verb == b"DATA":
                self._say("354 go on")
                self._take()
                self._say("250 taken")
            else:
                self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def _take(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        self.server.messages.append(message)


@contextlib.contextmanager
def serving(server: Any) -> Iterator[Any]:
    """The server, answering from a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        getattr(server, "let_go", threading.Event()).set()
        server.shutdown()
        server.server_close()
        thread.join()
