"""A small OpenAI-compatible `/v1/embeddings` server on 127.0.0.1, with faults to order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from tests.fakes import HashingEncoder


@dataclass
class Fault:
    """One answer that is not embeddings."""

    status: int = 500
    body: str = '{"error": {"message": "out of order"}}'
    headers: dict[str, str] = field(default_factory=dict)


class EmbeddingsServer:
    """Answers requests in turn: the next fault if there is one, else embeddings.

    `requests` holds each body, `keys` each Authorization header (None without one).
    """

    def __init__(self, dimension: int = 8) -> None:
        self.encoder = HashingEncoder(dimension)
        self.faults: list[Fault] = []
        self.requests: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.change: Callable[[dict[str, object]], object] = lambda answer: answer
        self.base_url = ""

    def answer(self, body: dict[str, object]) -> object:
        texts = body["input"]
        assert isinstance(texts, list)
        vectors = self.encoder.encode(texts)
        size = body.get("dimensions")
        if isinstance(size, int):
            vectors = vectors[:, :size]
        data = [
            {"object": "embedding", "index": row, "embedding": np.asarray(vector, float).tolist()}
            for row, vector in enumerate(vectors)
        ]
        # Any order is allowed: the index counts.
        return self.change({"object": "list", "data": data[::-1], "model": body["model"]})


@contextmanager
def serve(dimension: int = 8) -> Iterator[EmbeddingsServer]:
    server = EmbeddingsServer(dimension)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append(json.loads(raw))
            server.keys.append(self.headers.get("Authorization"))
            if self.path != "/v1/embeddings":
                self._send(Fault(404, '{"error": {"message": "no such path"}}'))
            elif server.faults:
                self._send(server.faults.pop(0))
            else:
                self._send(Fault(200, json.dumps(server.answer(server.requests[-1]))))

        def _send(self, fault: Fault) -> None:
            payload = fault.body.encode()
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
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
