"""What a streamer sees of an answer that may turn out to be the base model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Gate:
    """Stands before a streamer: holds the prompt back until it is decided who answers.

    Args:
        streamer: the caller's; it has `put` and `end`.
        is_shut: called at the first token; True if none of this run is to be shown, because another will be.
    """

    def __init__(self, streamer: Any, is_shut: Callable[[], bool]) -> None:
        self._streamer = streamer
        self._is_shut = is_shut
        self._held: list[Any] = []
        self._is_open: bool | None = None

    def put(self, value: Any) -> None:
        """The prompt first, then token after token."""
        if self._is_open is None:
            self._held.append(value)
            if len(self._held) > 1:
                self._decide()
        elif self._is_open:
            self._streamer.put(value)

    def end(self) -> None:
        """The last token was put."""
        if self._is_open is None:
            self._decide()
        if self._is_open:
            self._streamer.end()

    def _decide(self) -> None:
        self._is_open = not self._is_shut()
        for value in self._held if self._is_open else ():
            self._streamer.put(value)
        self._held.clear()
