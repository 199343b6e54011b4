"""A question is encoded before vLLM is asked, and not in the loop that serves all others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kblam.errors import EncoderError
from kblam.serve.vllm import gate
from tests.serve.vllm.standing_in import Served


def test_others_are_answered_while_a_question_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an encoder behind an address it may take seconds."""
    encoded, began, may_end = list[Any](), threading.Event(), threading.Event()

    def encode_ahead(extra_args: dict[str, Any]) -> None:
        encoded.append(extra_args)
        began.set()
        assert may_end.wait(60)

    monkeypatch.setattr(gate, "encode_ahead", encode_ahead)
    served = Served(question_head=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (began.wait(60), served.behind.others.wait(10), may_end.set()))
        with_base, without = served.ask_while("facts", began, None)
    assert served.behind.order == [None, "facts"]
    assert (with_base.status_code, without.status_code) == (200, 200)
    assert encoded == [{"kblam_kb": "facts", "kblam_question": "Who?"}]


def test_an_encoder_that_fails_is_the_server_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_ahead(extra_args: dict[str, Any]) -> None:
        raise EncoderError("the address says 502")

    monkeypatch.setattr(gate, "encode_ahead", encode_ahead)
    served = Served(question_head=True)
    for stream in (False, True):
        answer = served.ask(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "encoder_failed")
    assert served.behind.got == ({}, {}), "vLLM is not asked"
    assert served.ask(None).status_code == 200
