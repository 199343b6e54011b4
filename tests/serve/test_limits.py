"""The limits of a request are those that docs/serving.md tells."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from kblam.serve import SEND_SECONDS, app, connections, guards, knowledge, protocol, run, triples
from tests.serve.contract import TRIPLES
from tests.serve.served import MODEL, Served

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BODIES = inspect.signature(app.make_app).parameters
LIMITS = {
    "bytes of a body": BODIES["most"].default,
    "bytes of a body with triples (`--max-upload`, in MiB)": BODIES["most_of_uploads"].default,
    "triples of a request": triples.MOST,
    "triples of a list (`limit`)": knowledge.MOST_LISTED,
    "`offset` of a list": knowledge.LAST_OFFSET,
    "characters of `search`": knowledge.LONGEST_SEARCH,
    "messages of a conversation": protocol.MOST_MESSAGES,
    "answers of a request (`n`)": protocol.MOST_CHOICES,
    "`stop` strings": protocol.MOST_STOPS,
    "characters of a `stop` string": protocol.LONGEST_STOP,
    "`max_tokens`, and what the context has room for": protocol.MOST_TOKENS,
    "seconds until a body is whole": guards.BODY_SECONDS,
    "seconds until headers are whole": connections.HEAD_SECONDS,
    "seconds in which a client reads nothing of its response (`--send-timeout`)": SEND_SECONDS,
    "connections (more where `--queue` asks for more)": run.CONNECTIONS,
}


def test_the_page_has_the_limits_that_hold() -> None:
    (table,) = re.findall(r"^\| limit \|.*?\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (.+) \| ([\d,]+) \| \w+ \|$", table, re.MULTILINE)
    assert dict(rows) == {limit: f"{most:,.0f}" for limit, most in LIMITS.items()}


MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("fits", "refused"),
    [
        ({"messages": [MESSAGE] * protocol.MOST_MESSAGES}, {"messages": [MESSAGE] * (protocol.MOST_MESSAGES + 1)}),
        ({"stop": ["x" * protocol.LONGEST_STOP]}, {"stop": ["x" * (protocol.LONGEST_STOP + 1)]}),
        ({"stop": ["x"] * protocol.MOST_STOPS}, {"stop": ["x"] * (protocol.MOST_STOPS + 1)}),
        ({"n": protocol.MOST_CHOICES, "temperature": 1}, {"n": protocol.MOST_CHOICES + 1, "temperature": 1}),
        ({"max_tokens": protocol.MOST_TOKENS}, {"max_tokens": protocol.MOST_TOKENS + 1}),
    ],
    ids=lambda body: next(iter(body)),
)
def test_a_limit_is_the_last_that_is_taken(fits: dict[str, Any], refused: dict[str, Any]) -> None:
    body = {"model": MODEL, "messages": [MESSAGE]}
    protocol.ChatRequest.model_validate({**body, **fits})
    with pytest.raises(ValueError, match=next(iter(refused))):
        protocol.ChatRequest.model_validate({**body, **refused})


@pytest.mark.parametrize(
    ("name", "fits", "refused"),
    [
        ("limit", knowledge.MOST_LISTED, knowledge.MOST_LISTED + 1),
        ("offset", knowledge.LAST_OFFSET, knowledge.LAST_OFFSET + 1),
    ],
)
def test_a_limit_of_a_list_is_the_last_that_is_taken(server: Served, name: str, fits: int, refused: int) -> None:
    statuses = [server.client.get(TRIPLES, params={name: number}).status_code for number in (fits, refused)]
    assert statuses == [200, 400]
