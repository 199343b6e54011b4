from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kblam.errors import EmbeddingError, EncoderError, EncoderUnavailableError
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.encoders import OpenAIEncoder, load_encoder, posting
from kblam.knowledge.encoders import http as client
from kblam.knowledge.encoders.posting import LONGEST_WAIT
from tests.fakes import HashingEncoder
from tests.knowledge.embeddings_server import EmbeddingsServer, Fault, serve

SECRET = "sk-a-very-secret-key"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingsServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with serve() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds slept between tries, without sleeping them."""
    slept: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=slept.append))
    return slept


def encoder_at(server: EmbeddingsServer, **settings: object) -> OpenAIEncoder:
    return OpenAIEncoder("small", base_url=server.base_url, **settings)  # type: ignore[arg-type]


def test_vectors_come_back_in_the_order_of_the_texts(server: EmbeddingsServer) -> None:
    texts = [f"text {row} ünïcode 値" for row in range(10)]
    seen: list[tuple[int, int]] = []
    encoder = encoder_at(server, batch_size=4)
    vectors = encoder.encode(texts, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(vectors, HashingEncoder(8).encode(texts), atol=1e-6)
    assert vectors.dtype == np.float32
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert server.requests[0]["input"] == ["dimension"]  # an unknown model is asked for its size once
    assert [len(request["input"]) for request in server.requests[1:]] == [4, 4, 2]  # type: ignore[arg-type]
    assert {request["model"] for request in server.requests} == {"small"}
    assert set(server.keys) == {f"Bearer {SECRET}"}
    encoder.close()
    assert encoder.encode([]).shape == (0, 8)


def test_shorter_vectors_on_request(server: EmbeddingsServer) -> None:
    encoder = encoder_at(server, dimensions=5)
    assert encoder.encode(["a"]).shape == (1, 5)
    assert server.requests[0]["dimensions"] == 5
    assert encoder.fingerprint == "openai:small:5"


def test_known_models_need_no_request() -> None:
    assert OpenAIEncoder().dimension == 1536
    assert OpenAIEncoder("text-embedding-3-large").fingerprint == "openai:text-embedding-3-large:3072"


@pytest.mark.parametrize(
    "settings",
    [{}, {"dimensions": 256}, {"base_url": "http://127.0.0.1:8/v1"}, {"dimensions": 3, "base_url": "https://h/v1"}],
    ids=str,
)
def test_the_spec_gives_the_encoder_back(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    encoder = OpenAIEncoder("org/model:latest", **settings)  # type: ignore[arg-type]
    again = load_encoder(encoder.spec)
    assert isinstance(again, OpenAIEncoder)
    assert (again.model, again.base_url, again.dimensions) == (encoder.model, encoder.base_url, encoder.dimensions)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(server: EmbeddingsServer, waits: list[float], status: int) -> None:
    encoder = encoder_at(server, dimensions=8)
    server.faults = [Fault(status), Fault(status)]
    assert encoder.encode(["a"]).shape == (1, 8)
    assert len(server.requests) == 3
    assert 0.5 <= waits[0] <= 0.625
    assert 1.0 <= waits[1] <= 1.25


def test_retry_after_in_seconds_and_as_a_date(server: EmbeddingsServer, waits: list[float]) -> None:
    in_20_s = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    server.faults = [
        Fault(429, headers={"Retry-After": "7"}),
        Fault(503, headers={"Retry-After": in_20_s}),
        Fault(429, headers={"Retry-After": "86400"}),
        Fault(429, headers={"Retry-After": "soon"}),
    ]
    encoder_at(server, dimensions=8).encode(["a"])
    assert waits[0] == 7
    assert 15 < waits[1] <= 20
    assert waits[2] == LONGEST_WAIT
    assert waits[3] < 10


def test_it_gives_up_after_max_attempts(server: EmbeddingsServer, waits: list[float]) -> None:
    server.faults = [Fault(503)] * 9
    with pytest.raises(EncoderError, match="failed 3 times for 2 texts, the last time with HTTP 503: out of order"):
        encoder_at(server, dimensions=8, max_attempts=3).encode(["a", "b"])
    assert len(server.requests) == 3
    assert len(waits) == 2


def test_lost_connections_and_timeouts(server: EmbeddingsServer, waits: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(EncoderError, match=r"failed 2 times.*ConnectError"):
        OpenAIEncoder("m", base_url=address, max_attempts=2).encode(["a"])
    # It accepts and never answers.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        began = time.monotonic()
        with pytest.raises(EncoderError, match="ReadTimeout"):
            OpenAIEncoder("m", base_url=address, max_attempts=2, timeout=0.1).encode(["a"])
        assert time.monotonic() - began < 5
    assert len(waits) == 2


QUOTA = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        pytest.param(Fault(401), EncoderUnavailableError, "refused the key.*OPENAI_API_KEY", id="401"),
        pytest.param(Fault(403), EncoderUnavailableError, "refused the key", id="403"),
        pytest.param(Fault(404), EncoderUnavailableError, "does not know the model 'small'", id="404"),
        pytest.param(Fault(400, '{"error": "too long"}'), EncoderError, "refused the request.*too long", id="400"),
        pytest.param(Fault(301, ""), EncoderUnavailableError, "has moved", id="moved"),
        pytest.param(Fault(429, QUOTA), EncoderUnavailableError, "no quota left", id="quota"),
        pytest.param(Fault(200, "<html>"), EncoderError, "is it an OpenAI-compatible", id="html"),
        pytest.param(Fault(200, '{"data": 3}'), EncoderError, "is it an OpenAI-compatible", id="not-a-list"),
        pytest.param(Fault(200, '{"data": []}'), EncoderError, "where 0 to 0 were expected", id="too-few"),
        pytest.param(
            Fault(200, '{"data": [{"index": 0, "embedding": [1, NaN]}]}'), EncoderError, "NaN or infinity", id="nan"
        ),
        pytest.param(
            Fault(200, '{"data": [{"index": 0, "embedding": [1, 2]}]}'),
            EncoderError,
            "vectors of 2 numbers where 8 were expected",
            id="dimension",
        ),
        pytest.param(
            Fault(200, '{"data": [{"index": 0, "embedding": "AAAA"}]}'), EncoderError, "did not answer", id="base64"
        ),
    ],
)
def test_lasting_trouble_is_told_at_once(
    server: EmbeddingsServer, waits: list[float], fault: Fault, kind: type[EncoderError], message: str
) -> None:
    server.faults = [fault]
    with pytest.raises(EncoderError, match=message) as caught:
        encoder_at(server, dimensions=8).encode(["a"])
    assert type(caught.value) is kind
    assert len(server.requests) == 1
    assert waits == []


def one(embedding: str, index: str = "0") -> str:
    return f'{{"data": [{{"index": {index}, "embedding": {embedding}}}]}}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(one("[]"), "empty or hold NaN", id="empty"),
        pytest.param(one("[0, 0.0, 0, 0, 0, 0, 0, 0]"), "nothing but zeros", id="zeros"),
        pytest.param(one('["1", "2"]'), "not a list of numbers", id="texts"),
        pytest.param(one("[true, false]"), "not a list of numbers", id="booleans"),
        pytest.param(one("[null, 1]"), "not a list of numbers", id="null"),
        pytest.param(one("[[1], [2]]"), "not a list of numbers", id="nested"),
        pytest.param(one("1" + "0" * 400).replace("1000", "[1000").replace("}]", "]}]"), "OverflowError", id="10**400"),
        pytest.param(one("[1, 2]", "false"), "were expected", id="index-false"),
        pytest.param(one("[1, 2]", '"0"'), "were expected", id="index-text"),
        pytest.param(one("[1, 2]", "[0]"), "TypeError", id="index-list"),
        pytest.param('{"data": {}}', "TypeError", id="data-object"),
        pytest.param("[" * 100_000, "RecursionError", id="deep"),
        pytest.param(one(f'["{SECRET}"]'), "not a list of numbers", id="key-for-a-number"),
        pytest.param(one("[1, 2]", f'"{SECRET}"'), "were expected", id="key-for-an-index"),
    ],
)
def test_an_answer_is_checked_before_it_is_used(server: EmbeddingsServer, body: str, message: str) -> None:
    server.faults = [Fault(200, body)]
    with pytest.raises(EncoderError, match=message) as caught:
        encoder_at(server).encode(["a"])
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in locals_of_every_frame(caught.value)


def test_an_encoder_of_no_dimension_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="says that its vectors have 0 numbers"):
        KnowledgeBase.create(tmp_path / "a.kb", HashingEncoder(0))
    assert not (tmp_path / "a.kb").exists()


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The base URL of a server that reads a request and does what it likes."""

    def serve_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    answer(connection)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=serve_all, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def drip(first: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        for _ in range(200):
            threading.Event().wait(0.05)  # `waits` replaces sleep
            connection.sendall(piece)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{", b" "),
        drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    ],
    ids=["body", "headers"],
)
def test_a_server_that_sends_a_little_for_ever_is_given_up(
    waits: list[float], answer: Callable[[socket.socket], None]
) -> None:
    began = time.monotonic()
    with raw_server(answer) as address, pytest.raises(EncoderError, match=r"no whole answer within 0\.3 seconds"):
        OpenAIEncoder("m", base_url=address, max_attempts=2, timeout=0.3).encode(["a"])
    assert time.monotonic() - began < 5


def test_a_request_that_takes_too_long_ends_no_other_threads() -> None:
    """Threads share an encoder; the one that waited too long closed the connections of all."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["slow"]:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                with contextlib.suppress(OSError):
                    while True:  # a piece of the header now and then, so that no wait for one is too long
                        self.wfile.write(b"X-Still: here\r\n")
                        time.sleep(0.1)
            time.sleep(1.5)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    poster = posting.Poster(f"http://127.0.0.1:{http.server_port}/", "NO_SUCH_KEY", timeout=3.0)
    said: list[object] = []
    slow = threading.Thread(target=lambda: said.append(poster.post({"slow": True}, 100)))
    slow.start()
    time.sleep(2.5)  # its time ends a second from now, while the other is under way
    answer = poster.post({"slow": False}, 100)
    slow.join()
    poster.close()
    assert "closed" in str(poster.post({"slow": False}, 100))
    http.shutdown()
    http.server_close()
    assert not isinstance(answer, str), answer
    assert answer.status_code == 200
    assert said == ["no whole answer within 3 seconds"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_not_read_to_it(waits: list[float], packed: bool) -> None:
    def answer(connection: socket.socket) -> None:
        packing = zlib.compressobj(9, zlib.DEFLATED, 31)
        encoding = b"Content-Encoding: gzip\r\n" if packed else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + encoding + b"\r\n")
        for _ in range(1000):
            connection.sendall(packing.compress(bytes(2**22)) if packed else bytes(2**20))

    with raw_server(answer) as address, pytest.raises(EncoderError, match="an answer of more than 1,572,864 bytes"):
        OpenAIEncoder("m", base_url=address, max_attempts=1).encode(["a"])


@pytest.mark.parametrize(
    "answer",
    [
        b"%s %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%s%s\r\n\r\n",
        b"HTTP/1.1 400 %s %s\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 X\r\nX: %s%s\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["status-line", "header-line", "reason", "header"],
)
def test_a_key_that_comes_back_is_neither_told_nor_logged(
    server: EmbeddingsServer, waits: list[float], caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    key = SECRET.encode()
    with (
        raw_server(lambda connection: connection.sendall(answer % (key, key))) as address,
        pytest.raises(EncoderError) as caught,
    ):
        OpenAIEncoder("m", base_url=address, max_attempts=1, timeout=2).encode(["a"])
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


def test_a_piece_of_a_key_is_hidden_too(server: EmbeddingsServer) -> None:
    server.faults = [Fault(400, json.dumps({"error": f"bad key {SECRET[:-5]}... of you"}))]
    with pytest.raises(EncoderError, match=r"bad key \*\*\*\.\.\. of you"):
        encoder_at(server).encode(["a"])


def test_a_wrong_path_names_the_base_url(server: EmbeddingsServer) -> None:
    with pytest.raises(EncoderUnavailableError, match="usually ends in /v1"):
        OpenAIEncoder("m", base_url=server.base_url.removesuffix("/v1")).encode(["a"])


# --- the key ---------------------------------------------------------------------------------------------


def locals_of_every_frame(error: BaseException) -> str:
    """What a traceback printer that shows locals (rich can) would print, this file's frames left out."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename != __file__]
    assert frames
    return " ".join(repr(value) for frame in frames for value in frame.f_locals.values())


def test_the_key_is_shown_nowhere(
    server: EmbeddingsServer, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    encoder = encoder_at(server, dimensions=8, max_attempts=1)
    quoting = json.dumps({"error": {"message": f"bad {SECRET}"}})
    for status in (400, 401, 403, 404, 503):
        server.faults = [Fault(status, quoting)]
        with pytest.raises(EncoderError) as caught:
            encoder.encode(["a"])
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert SECRET not in locals_of_every_frame(caught.value)
        assert ("bad ***" in str(caught.value)) == (status not in (401, 403))
    assert set(server.keys) == {f"Bearer {SECRET}"}
    for shown in (repr(encoder), encoder.spec, encoder.fingerprint, vars(encoder), vars(encoder._client), caplog.text):
        assert SECRET not in str(shown)


@pytest.mark.parametrize("key", ["sk-with a space", "sk-line\n", "sk-ключ"])
def test_a_key_that_cannot_be_sent_is_not_shown(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EncoderUnavailableError, match="the key in OPENAI_API_KEY holds white space") as caught:
        encoder_at(server).encode(["a"])
    assert key.strip() not in str(caught.value)
    assert server.requests == []


def test_openai_itself_needs_a_key_and_others_do_not(server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EncoderUnavailableError, match="environment variable OPENAI_API_KEY"):
        OpenAIEncoder().encode(["a"])
    encoder_at(server, dimensions=8).encode(["a"])
    monkeypatch.setenv("MY_KEY", SECRET)
    encoder_at(server, dimensions=8, api_key_env="MY_KEY").encode(["a"])
    assert server.keys == [None, f"Bearer {SECRET}"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://user:password@host/v1", "a key goes in the environment"),
        ("https://host/v1?key=password", "a key goes in the environment"),
        ("ftp://host/v1", "must look like https://host/v1"),
        ("host/v1", "must look like https://host/v1"),
        ("https://[host", "not an address"),
        ("https://host:port/v1", "not an address"),
    ],
)
def test_base_urls_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        OpenAIEncoder("m", base_url=url)
    assert "password" not in str(caught.value)


def test_the_base_url_of_the_environment(server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url + "/")
    encoder = load_encoder("openai:small#8")
    assert encoder.encode(["a"]).shape == (1, 8)
    assert encoder.spec == f"openai:small#8@{server.base_url}"


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"max_attempts": 0}, {"dimensions": 0}, {"model": " "}], ids=str
)
def test_settings_that_cannot_work(settings: dict[str, object]) -> None:
    with pytest.raises(EncoderError, match=r"at least 1|model name is empty"):
        OpenAIEncoder(**settings)  # type: ignore[arg-type]
