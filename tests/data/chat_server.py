"""A small OpenAI-compatible `/v1/chat/completions` server on 127.0.0.1 that says what it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes] | dict[str, Any] | bytes


def said(
    text: str | None, finish: str = "stop", tokens: tuple[int, int] | None = None, **message: object
) -> dict[str, Any]:
    """The body of a chat completion."""
    body: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]
    }
    return body if tokens is None else body | {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}


class ChatServer:
    """What it says: `replies` in turn, the last one again and again; or what `answer` makes of a request.

    A reply is a text, a status to fail with, a status with headers and perhaps bytes, a whole body, or its bytes as
    they are sent.
    `most_at_once` is how many requests were under way together.
    """

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.answer: Callable[[dict[str, Any]], Reply] | None = None
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.requests: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.base_url = ""


@contextmanager
def serve() -> Iterator[ChatServer]:
    server = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.requests.append(request)
                server.keys.append(self.headers.get("Authorization"))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                reply = self._reply(request)
            finally:
                with server.lock:
                    server.at_once -= 1
            headers: dict[str, str] = {}
            status, payload = 200, b"{}"
            if isinstance(reply, tuple):
                status, headers, *sent = reply
                payload = sent[0] if sent else payload
            elif isinstance(reply, int):
                status = reply
            elif isinstance(reply, bytes):
                payload = reply
            else:
                payload = json.dumps(said(reply) if isinstance(reply, str) else reply).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that waits no longer
                self.wfile.write(payload)

        def _reply(self, request: dict[str, Any]) -> Reply:
            if self.path != "/v1/chat/completions":
                return 404
            if server.answer is not None:
                return server.answer(request)
            return server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(timeout=5)
