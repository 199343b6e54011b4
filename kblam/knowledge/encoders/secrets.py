"""Keys never appear in what is printed, raised or logged, also where a server sends back the one it was given."""

from __future__ import annotations

import logging
import os

# Variables that may hold a secret; `note` adds those that a user names.
_VARIABLES = {"OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
# Servers quote keys in part; a shorter piece says too little to matter, and would strike out words.
_SHORTEST_PIECE = 8
_HIDDEN = "***"


def note(variable: str) -> None:
    """From now on what this environment variable holds is a secret."""
    _VARIABLES.add(variable)


def redact(text: str) -> str:
    """The text without any secret, and without any piece of one."""
    for variable in _VARIABLES:
        secret = os.environ.get(variable, "")
        if len(secret) >= _SHORTEST_PIECE:
            text = _without(text, secret)
    return text


def _without(text: str, secret: str) -> str:
    text = text.replace(secret, _HIDDEN)
    pieces = {secret[at : at + _SHORTEST_PIECE] for at in range(len(secret) - _SHORTEST_PIECE + 1)}
    hidden = [False] * len(text)
    found = False
    for at in range(len(text) - _SHORTEST_PIECE + 1):
        if text[at : at + _SHORTEST_PIECE] in pieces:
            hidden[at : at + _SHORTEST_PIECE] = [True] * _SHORTEST_PIECE
            found = True
    if not found:
        return text
    kept = []
    for at, character in enumerate(text):
        if not hidden[at]:
            kept.append(character)
        elif at == 0 or not hidden[at - 1]:
            kept.append(_HIDDEN)
    return "".join(kept)


class RedactingFilter(logging.Filter):
    """Takes secrets out of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage()
        clean = redact(told)
        if clean != told:
            record.msg, record.args = clean, ()
        return True


def guard_logs(*names: str) -> None:
    """Keeps secrets out of what these loggers say. A filter holds for one logger, not for those below it."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(one, RedactingFilter) for one in logger.filters):
            logger.addFilter(RedactingFilter())
