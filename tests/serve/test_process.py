"""The command as a process: it starts or says why not, ends cleanly, and loses nothing that was committed."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from kblam import KnowledgeBase, Triple
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM
from tests.serve.contract import ACME, NEW, SCRAPE, bearer, raw_of
from tests.serve.process import forked, interrupted, served


def test_it_serves_and_ends_with_control_c(base: Path, adapter: Path, kb: Path) -> None:
    with served(base, "--adapter", adapter, "--kb", f"facts={kb}", "--name", "m", "--access-log") as (process, url):
        body = {"model": "m@facts", "messages": [{"role": "user", "content": "what is the capital"}], "max_tokens": 40}
        first = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
        assert first.json()["kblam"]["evidence"][0]["value"] == "Zirconia"
        body |= {"stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300) as response:
            lines = response.iter_lines()  # kept: an iterator that goes closes the connection
            next(lines)
            status, said = interrupted(process)
        assert status == 130
        assert "interrupted" in said
        assert 'POST /v1/chat/completions HTTP/1.1" 200' in said
        assert "Traceback" not in said
        assert process.stdout is not None


CHAT = {"model": "m@facts", "messages": [{"role": "user", "content": "what is the capital"}], "max_tokens": 40}


def test_sigterm_lets_an_answer_end_that_ends_soon(
    base: Path, adapter: Path, kb: Path, tmp_path: Path, warm: None
) -> None:
    with forked(tmp_path, base, "--adapter", adapter, "--kb", f"facts={kb}", "--name", "m") as (process, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=300) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        status, said = process.ended()
    assert status == 0
    assert "Traceback" not in said
    assert "rror" not in said


def test_sigterm_tells_whoever_still_waits_and_leaves_whole_files(
    base: Path, adapter: Path, kb: Path, tmp_path: Path, warm: None
) -> None:
    with forked(tmp_path, base, "--adapter", adapter, "--kb", f"facts={kb}", "--name", "m", HELD="1") as (process, url):
        waiting: list[httpx.Response] = []

        def wait() -> None:
            waiting.append(httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=300))

        with httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=300) as response:
            lines = response.iter_lines()
            next(lines)
            another = threading.Thread(target=wait)
            another.start()
            time.sleep(0.5)  # it waits in the queue
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        another.join(60)
        status, said = process.ended()
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_ending"
    assert (waiting[0].status_code, waiting[0].json()["error"]["code"]) == (503, "server_ending")
    assert status == 0
    assert "Traceback" not in said
    assert "rror" not in said
    with KnowledgeBase.open(kb, HashingEncoder(EMBEDDING_DIM)) as knowledge_base:
        knowledge_base.check()
        knowledge_base.add(Triple("it", "can", "be written"))


def test_what_was_committed_outlives_a_kill_in_the_middle_of_changes(
    base: Path,
    adapter: Path,
    kb: Path,
    tmp_path: Path,
    warm: None,
) -> None:
    done: list[int] = []
    with (
        forked(tmp_path, base, "--adapter", adapter, "--kb", f"facts={kb}") as (process, url),
        httpx.Client(base_url=url, timeout=300) as client,
    ):

        def change() -> None:
            for number in range(10_000):
                triples = [{"name": f"n{number}", "property": str(part), "value": "v"} for part in range(20)]
                try:
                    client.post("/v1/knowledge/facts/triples", json=triples).raise_for_status()
                except httpx.HTTPError:
                    return
                done.append(number)

        changing = threading.Thread(target=change)
        changing.start()
        while len(done) < 10:
            assert changing.is_alive()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        changing.join()
    with KnowledgeBase.open(kb, HashingEncoder(EMBEDDING_DIM)) as knowledge_base:
        knowledge_base.check()
        whole = [len(knowledge_base.find(f"n{number}")) for number in range(len(done) + 2)]
        assert set(whole[: len(done)]) == {20}
        assert set(whole[len(done) :]) <= {0, 20}  # the one that was not answered any more
        knowledge_base.add(Triple("it", "can", "be written"))


def status_of(response: httpx.Response) -> tuple[int, str | None]:
    """Its status, and the code of its error."""
    return response.status_code, response.json()["error"]["code"] if response.is_error else None


def test_with_keys_each_answer_wants_one_and_metrics_their_own(
    base: Path, adapter: Path, kb: Path, tmp_path: Path, warm: None
) -> None:
    keys = {"KBLAM_API_KEYS": f"acme:{ACME}", "KBLAM_METRICS_KEY": SCRAPE}
    given = (base, "--adapter", adapter, "--kb", f"acme/facts={kb}", "--name", "m")
    with forked(tmp_path, *given, **keys) as (_, url), httpx.Client(base_url=url, timeout=300) as client:
        for key, expected in ((None, 401), ("another-key-0123456789", 401), (SCRAPE, 401), (ACME, 200)):
            headers = {} if key is None else bearer(key)
            assert client.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == expected
            assert client.get("/v1/models", headers=headers).status_code == expected
        # Where there are keys a page cannot make up for them, and the server may have any name.
        assert client.get("/v1/models", headers={**bearer(ACME), "Host": "kblam.example"}).status_code == 200
        for headers, expected in (({}, 401), (bearer(ACME), 401), (bearer(SCRAPE), 200)):
            response = client.get("/metrics", headers=headers)
            assert response.status_code == expected
            assert ("kblam" in response.text and "acme/facts" in response.text) == (expected == 200)


def test_without_keys_the_limits_that_were_given_hold(
    base: Path, adapter: Path, kb: Path, tmp_path: Path, warm: None
) -> None:
    given = (base, "--adapter", adapter, "--kb", f"facts={kb}", "--name", "m")
    limits = ("--read-only", "--max-upload", 1, "--queue", 0)
    with forked(tmp_path, *given, *limits, HELD="1") as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        triples = "/v1/knowledge/facts/triples"
        assert status_of(client.post(triples, json=[NEW])) == (403, "read_only")
        assert status_of(client.get("/v1/models", headers={"Host": "evil.example"})) == (421, "unknown_host")
        assert status_of(client.get("/v1/models", headers={"Host": "localhost"})) == (200, None)
        head = f"POST {triples} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        for size, expected in ((2**20 + 1, b"HTTP/1.1 413 "), (2**20, b"HTTP/1.1 403 ")):
            parts = (f"{head}Content-Length: {size}\r\n\r\n".encode(), json.dumps([NEW]).ljust(size).encode())
            assert raw_of(url, *parts).startswith(expected)
        with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
            lines = response.iter_lines()  # kept: an iterator that goes closes the connection
            next(lines)
            full = client.post("/v1/chat/completions", json=CHAT)
            assert status_of(full) == (429, "queue_full")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "there are no keys"),
        (["--kb", "a b=x.kb"], "cannot be a name"),
        (["--kb", "acme/facts=x.kb"], "has no key"),
        (["--kb", "facts=none.kb"], "there is no knowledge base"),
        (["--name", "a@b"], "cannot be called"),
        (["--host", "256.1.1.1", "--without-keys"], "cannot listen on"),
    ],
    ids=lambda given: str(given[:2]) if isinstance(given, list) else given,
)
def test_what_cannot_be_served_is_told_at_once(
    arguments: list[str], word: str, base: Path, adapter: Path, kb: Path
) -> None:
    given = [] if "--kb" in arguments else ["--kb", f"facts={kb}"]
    kblam("serve", base, "--adapter", adapter, *given, *arguments).failed(2, word)


def test_a_base_of_another_encoder_is_refused_at_start(base: Path, adapter: Path, kb: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.kb"
    KnowledgeBase.create(other, HashingEncoder(EMBEDDING_DIM, seed=5)).close()
    alone = kblam("serve", base, "--adapter", adapter, "--kb", f"other={other}", "--port", 0)
    assert alone.status == 2
    assert "encoder" in alone.stderr


def test_a_port_in_use_is_told_in_a_line(base: Path, adapter: Path, kb: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = kblam("serve", base, "--adapter", adapter, "--kb", f"facts={kb}", "--port", port)
        run.failed(2, f"port {port} of 127.0.0.1 is in use", "--port")


@pytest.mark.parametrize(("queue", "connections"), [(64, 512), (600, 729)])
def test_as_many_connections_are_taken_as_requests_may_wait(
    queue: int, connections: int, base: Path, adapter: Path, kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    async def serve(*_: object, connections: int, **__: object) -> None:
        taken.append(connections)

    monkeypatch.setattr("kblam.serve.run.serve", serve)
    monkeypatch.setattr("kblam.serve.run.signal.signal", lambda *_: None)
    encoder = HashingEncoder(EMBEDDING_DIM)
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", lambda spec, device: encoder)
    kblam("serve", base, "--adapter", adapter, "--kb", f"facts={kb}", "--port", 0, "--queue", queue).ok()
    assert taken == [connections]


def test_another_host_needs_keys_or_a_word(monkeypatch: pytest.MonkeyPatch, base: Path, kb: Path) -> None:
    monkeypatch.setenv("KBLAM_API_KEYS", "acme:acme-key-0123456789")
    kblam("serve", base, "--kb", f"facts={kb}", "--host", "0.0.0.0", "--adapter", "x").failed(2, "belongs to nobody")
