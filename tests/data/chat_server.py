"""A small OpenAI-compatible `/v1/chat/completions` server on 127.0.0.1 that says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`replies`: in turn, a text to say, a status to fail with, or a whole body; the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[str | int | dict[str, object]] = []
        self.requests: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.base_url = ""


@contextmanager
def serve() -> Iterator[ChatServer]:
    server = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            server.keys.append(self.headers.get("Authorization"))
            reply: object = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            if self.path != "/v1/chat/completions":
                reply = 404
            body = (
                {"choices": [{"message": {"role": "assistant", "content": reply}}]} if isinstance(reply, str) else reply
            )
            status, payload = (reply, b"{}") if isinstance(reply, int) else (200, json.dumps(body).encode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

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
