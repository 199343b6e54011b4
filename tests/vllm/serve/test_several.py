"""Several answers from a knowledge base, by vLLM: each with its own words, seeds and evidence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.contract import chunks
from tests.serve.served import Served

COMPLETIONS = "/v1/completions"
DRAWN: dict[str, Any] = {"n": 3, "temperature": 1.5, "seed": 3, "max_tokens": 12}


def completion(server: Served, **more: Any) -> dict[str, Any]:
    return {"model": f"{server.model}@facts", "prompt": f"[BOS]{server.question}[SEP]", **DRAWN, **more}


def test_answers_that_differ_rest_on_their_own_tokens(server: Served) -> None:
    choices = server.ask(**DRAWN).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 3
    masses = [[one["mass"] for one in choice["kblam"]["evidence"]] for choice in choices]
    assert len({str(one) for one in masses}) == 3


def test_completions_too_whole_and_in_a_stream(server: Served) -> None:
    whole = server.send(completion(server), COMPLETIONS).json()
    alone = [server.send(completion(server, n=1, seed=3 + at), COMPLETIONS).json() for at in range(3)]
    assert [one["text"] for one in whole["choices"]] == [one["choices"][0]["text"] for one in alone]
    parts = chunks(server.send(completion(server, stream=True), COMPLETIONS).text)
    for at, choice in enumerate(whole["choices"]):
        best, expected = choice["kblam"]["evidence"][0], alone[at]["kblam"]["evidence"][0]
        assert best["mass"] == pytest.approx(expected["mass"], abs=1e-4)
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == at]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert own[-1]["kblam"]["evidence"][0]["mass"] == pytest.approx(best["mass"], abs=1e-4)
    assert "kblam" not in whole


def test_without_seeds_answers_are_drawn_apart(server: Served) -> None:
    # Hot, since what comes depends on all that was drawn before: at 1.5 eight were once alike.
    choices = server.ask(**{**DRAWN, "seed": None, "n": 8, "temperature": 2}).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) > 1
