"""A tokenizer's chat template, with a place for the question.

A chat template is a program that comes with a model. transformers runs it in a sandbox, which keeps it from the
machine, but not from running for ever or from filling the memory. So it is rendered once, in a process with limits,
around a mark; the question takes the mark's place afterwards and is never seen by the template.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from kblam.errors import GenerationError

MARK = "\ue000question\ue000"
SYSTEM_MARK = "\ue000system\ue000"
SECONDS = 5  # of processor time, for rendering
DEADLINE = 60  # seconds until the process must have ended, its imports included
MEMORY = 512 * 2**20
MOST_CHARACTERS = 2**20
_CALLED = {"user": "question", "system": "system message", "assistant": "answer"}
_CHILD = Path(__file__).with_name("template_process.py")


def chat_template_of(tokenizer: PreTrainedTokenizerBase, *, with_system: bool = False) -> str | None:
    """The text of a tokenizer's chat template around `MARK`, ready for the answer; None if it has none.

    Args:
        with_system: a system message comes first, around `SYSTEM_MARK`.

    Raises:
        GenerationError: it raises an error, needs more time or memory than any template should, or leaves the question
            out.
    """
    messages = [("system", SYSTEM_MARK)] * with_system + [("user", MARK)]
    return _of(tokenizer, messages)


def conversation_of(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> str | None:
    """A conversation in a tokenizer's chat template, ready for the next answer; None if it has none.

    The template is rendered once for each sequence of roles, and never sees a text.

    Args:
        turns: (role, text) of each message; roles are "system", "user" and "assistant".

    Raises:
        GenerationError: as `chat_template_of`; a template may refuse an order of roles, too.
    """
    marks = {f"\ue000{place}\ue000": text for place, (_, text) in enumerate(turns)}
    template = _of(tokenizer, [(role, mark) for (role, _), mark in zip(turns, marks, strict=True)])
    return (
        None if template is None else re.sub("\ue000[0-9]+\ue000", lambda mark: marks.get(mark[0], mark[0]), template)
    )


def _of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, str]]) -> str | None:
    if tokenizer.chat_template is None:
        return None
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise _unusable(str(error)) from error
    return _rendered(template, json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True), tuple(messages))


def filled(template: str, question: str, system: str = "") -> str:
    """A template with texts in place of its marks; what stands in a text is never taken for a mark."""
    texts = {MARK: question, SYSTEM_MARK: system}
    return re.sub("|".join(texts), lambda mark: texts[mark[0]], template)


@functools.lru_cache(maxsize=16)
def _rendered(template: str, special_tokens: str, messages: Sequence[tuple[str, str]]) -> str:
    job = {
        "template": template,
        "special_tokens": json.loads(special_tokens),
        "messages": [{"role": role, "content": mark} for role, mark in messages],
        "path": [place for place in sys.path if isinstance(place, str)],
        "seconds": SECONDS,
        "memory": MEMORY,
        "most": MOST_CHARACTERS,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unusable(f"it has not ended after {DEADLINE} seconds") from error
    except OSError as error:
        raise _unusable(f"the process that renders it cannot be started ({error})") from error
    if done.returncode < 0:
        raise _unusable(f"it has not ended after {SECONDS} seconds, or takes too much memory")
    try:
        result = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.strip().split("\n")[-1]
        raise _unusable(f"the process that renders it failed ({said or 'without a word'})") from error
    if "error" in result:
        raise _unusable(result["error"])
    if lost := [role for role, mark in messages if mark not in result["text"]]:
        raise _unusable(f"what it makes of a question does not hold the {_CALLED[lost[0]]}")
    return str(result["text"])


def _unusable(reason: str) -> GenerationError:
    return GenerationError(
        f"the tokenizer's chat template cannot be used: {reason}; repair tokenizer.chat_template, or record a prompt "
        'in the adapter\'s config: "prompt": "... {question} ..."'
    )
