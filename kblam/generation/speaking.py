"""From generated tokens to text that can be sent before the answer is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from transformers import PreTrainedTokenizerBase

from kblam.generation.answer import Answer
from kblam.generation.prompt import TOKENIZING


class StoppedError(Exception):
    """Nobody waits for this answer any more."""


class Speaker:
    """A streamer of `generate` that sends text which later tokens cannot change.

    Args:
        tokenizer: of the model.
        stops: strings before which the answer ends; what may be the beginning of one is held back.
        send: takes each piece.
        is_stopped: set when the answer is not wanted any more.

    Attributes:
        prompt_tokens: that the model was given; 0 before it began.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], send: Callable[[str], None], is_stopped: Event
    ) -> None:
        self.prompt_tokens = 0
        self._tokenizer, self._stops, self._send, self._is_stopped = tokenizer, stops, send, is_stopped
        self._tokens: list[int] = []
        self._sent = ""

    def put(self, value: Any) -> None:
        """The prompt first, then token after token; int64 tensors.

        Raises:
            StoppedError: the answer is not wanted any more.
        """
        if self._is_stopped.is_set():
            raise StoppedError
        if not self.prompt_tokens:
            self.prompt_tokens = value.numel()
            return
        self._tokens += value.flatten().tolist()
        self._say(_settled(self._decoded(), self._stops).lstrip())

    def end(self) -> None:
        """Called after the last token; `finish` says the rest."""

    def finish(self, answer: Answer) -> Answer:
        """Sends what is left of an answer, and returns it without what follows a stop string.

        A tokenizer may not be able to write what the answer says (`Answer.text`); then what was sent is not its
        beginning, and the rest of what the tokenizer writes is sent.
        """
        text = _cut(answer.text, self._stops)
        if len(text) < len(answer.text):
            text = text.rstrip()
            copied = tuple(replace(one, end=min(one.end, len(text))) for one in answer.copied if one.start < len(text))
            answer = replace(answer, text=text, copied=copied)
        self._say(text if text.startswith(self._sent) else _cut(self._decoded(), self._stops).strip())
        return answer

    def _decoded(self) -> str:
        with TOKENIZING:
            return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))

    def _say(self, text: str) -> None:
        # By length: a byte that belongs to no character may change those that were sent already.
        if more := text[len(self._sent) :]:
            self._send(more)
            self._sent += more


def _settled(text: str, stops: Sequence[str]) -> str:
    """The part of an unfinished text that stays as it is."""
    # A character of several bytes may be half there, and a stop string may go on with it.
    text = text.rstrip("\ufffd")
    cut = _cut(text, stops)
    if len(cut) == len(text):
        held = max((_overlap(text, stop) for stop in stops), default=0)
        cut = text[: len(text) - held]
    return cut.rstrip()


def _cut(text: str, stops: Sequence[str]) -> str:
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
