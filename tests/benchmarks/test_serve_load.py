"""The load of a server, without one: what ends the run."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from benchmarks import serve_load

ASKED = ("model@alpha", "What is the color of Amber Falcon?")
LOAD = argparse.Namespace(requests=3, clients=2)


class Server:
    """Answers every question with the same words; takes a change, or does not."""

    def __init__(self, *, changes: bool = True) -> None:
        self.changes = changes

    def post(self, path: str, **body: Any) -> Any:
        answer = {"choices": [{"message": {"content": "deep red"}}]}
        return SimpleNamespace(status_code=200, raise_for_status=lambda: None, json=lambda: answer)

    def put(self, path: str, **body: Any) -> Any:
        if not self.changes:
            raise httpx.ConnectError("refused")
        return SimpleNamespace(status_code=200, raise_for_status=lambda: None)


def loaded(server: Server, alone: str = "deep red", *, with_changes: bool = True) -> dict[str, Any]:
    client: Any = server
    return serve_load._loaded(client, {ASKED: alone}, LOAD, with_changes=with_changes)


def test_answers_as_alone_are_counted() -> None:
    assert loaded(Server())["different_from_alone"] == 0
    assert loaded(Server(), with_changes=False)["changes"] == 0


def test_an_answer_that_differs_ends_the_run() -> None:
    with pytest.raises(SystemExit, match="3 answers differ from those given alone"):
        loaded(Server(), alone="dusty blue")


def test_a_change_that_fails_ends_the_run() -> None:
    with pytest.raises(httpx.ConnectError, match="refused"):
        loaded(Server(changes=False))
