"""Metrics count what happened, by names that the server was started with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.contract import values
from tests.serve.served import Served


@pytest.mark.parametrize(
    "more", [{}, {"max_tokens": 4}, {"stop": "cannot"}, {"temperature": 1, "max_tokens": 4}], ids=str
)
def test_a_refusal_is_counted(server: Served, more: dict[str, Any]) -> None:
    before = values(server).get(("kblam_refusals_total", "facts"), 0)
    assert server.ask("who are you", **more).json()["kblam"]["refused"]
    assert values(server)["kblam_refusals_total", "facts"] == before + 1


def test_a_question_that_is_refused_several_times_counts_once(server: Served) -> None:
    before = values(server).get(("kblam_refusals_total", "facts"), 0)
    choices = server.ask("who are you", n=3, temperature=1).json()["choices"]
    assert all(choice["kblam"]["refused"] for choice in choices)
    assert values(server)["kblam_refusals_total", "facts"] == before + 1


def test_a_stream_counts_until_its_last_byte(server: Served) -> None:
    before = values(server).get(("kblam_request_seconds_count", "/v1/chat/completions", "facts"), 0)
    assert server.ask(stream=True).text.endswith("[DONE]\n\n")
    assert values(server)["kblam_request_seconds_count", "/v1/chat/completions", "facts"] == pytest.approx(before + 1)
