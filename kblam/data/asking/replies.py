"""Replies that questions were made of, kept as soon as they are there: a run that was stopped asks nothing twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from kblam.data.endpoint import ChatClient, Reply, beginning
from kblam.data.journal import Journal


class Replies(Journal[str]):
    """The replies of a set that is not written yet."""

    _key, _work = "request", ("a", "run of `kblam data questions`")
    _is_passing = True

    def _fields(self, kept: str) -> dict[str, Any]:
        return {"reply": kept}

    def _answer(self, entry: Mapping[str, Any]) -> str:
        if not isinstance(entry["reply"], str):
            raise TypeError("a reply is text")
        return entry["reply"]


CUT = "a reply that was cut at its length limit"


def why_useless(reply: Reply) -> str | None:
    """Why there is nothing in a reply that could be used; None where that has to be looked for."""
    if reply.is_refusal:
        return f"a reply that refuses: {beginning(reply.refusal or reply.text, 100) or 'no reason'}"
    return CUT if reply.is_cut else None


class Request:
    """What a model is asked, and where its reply is kept.

    Args:
        place: of the request among those of a set, which may ask for the same thing twice.
        messages: with `role` and `content`.
        replies: kept before; None keeps nothing.
    """

    def __init__(self, place: int, messages: Sequence[Mapping[str, str]], replies: Journal[str] | None) -> None:
        self._place, self._messages, self._replies = place, messages, replies

    def reply(self, client: ChatClient, *, temperature: float, schema: Mapping[str, Any]) -> Reply:
        """The reply that is kept, or a new one, which is not kept before it was found to be of use."""
        if self._replies is not None and (kept := self._replies.get(self._key(client.endpoint.model))) is not None:
            return Reply(kept)
        return client.ask(self._messages, temperature=temperature, schema=schema)

    def keep(self, model: str, reply: str) -> None:
        """Keeps a reply that is of use.

        Raises:
            DataError: it cannot be written.
        """
        if self._replies is not None and self._replies.get(key := self._key(model)) is None:
            self._replies.put(key, reply)

    def _key(self, model: str) -> str:
        asked = json.dumps([model, self._place, list(self._messages)])
        return blake2b(asked.encode(), digest_size=16).hexdigest()
