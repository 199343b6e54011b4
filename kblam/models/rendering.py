"""What a chat template makes of sequences of roles: rendered in a process with limits, and kept.

A chat template is a program that comes with a model. transformers runs it in a sandbox, which keeps it from the
machine, but not from running for ever or from filling the memory. So it is rendered around marks, in a process of its
own; texts take the marks' places afterwards and are never seen by the template.

A process takes a second or two to start. So one renders, after the conversation that is wanted, those that are likely
to come next; and what a template refuses is kept as what it says is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kblam.errors import GenerationError, RenderingError
from kblam.strict_json import loads

SECONDS = 5  # of processor time, for rendering
SECONDS_AHEAD = 1  # of them, for conversations that may come
DEADLINE = 60  # seconds until the process must have ended, its imports included
MEMORY = 512 * 2**20
MOST_CHARACTERS, MOST_CHARACTERS_AHEAD = 2**20, 2**22
MOST_KEPT, MOST_CHARACTERS_KEPT = 1024, 2**24  # the usual conversations are 256, of a million characters together
LONGEST = 256  # messages; the server takes no more
_STEPS_AHEAD = 8  # of an unusual conversation
_KILLED = -9  # as subprocess tells SIGKILL
MARK = re.compile("\ue000[0-9]+\ue000")
_USUAL = (("user",), ("system", "user"))
_NEXT = ("assistant", "user")
_CALLED = {"user": "question", "system": "system message", "assistant": "answer"}
_CHILD = Path(__file__).with_name("template_process.py")

Roles = tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A chat template, as a tokenizer has it.

    Args:
        text: of the template.
        special_tokens: by their names, as JSON.
    """

    text: str
    special_tokens: str


@dataclass(frozen=True)
class _Refusal:
    reason: str


class _Kept:
    """What was rendered last, by template and roles; threads may share it."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[Template, Roles], str | _Refusal] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, template: Template, roles: Roles) -> str | _Refusal | None:
        with self._lock:
            if (found := self._found.get((template, roles))) is not None:
                self._found.move_to_end((template, roles))
            return found

    def keep(self, template: Template, roles: Roles, outcome: str | _Refusal) -> None:
        with self._lock:
            self._characters += _size(outcome) - _size(self._found.get((template, roles), ""))
            self._found[template, roles] = outcome
            self._found.move_to_end((template, roles))
            while len(self._found) > MOST_KEPT or self._characters > MOST_CHARACTERS_KEPT:
                self._characters -= _size(self._found.popitem(last=False)[1])


_KEPT = _Kept()
_RENDERING = threading.Lock()  # who waits for it finds what was rendered meanwhile


def mark(place: int) -> str:
    """What stands for the text of a message."""
    return f"\ue000{place}\ue000"


def is_known(template: Template, roles: Roles) -> bool:
    """Whether `rendered` tells at once."""
    return _KEPT.get(template, roles) is not None


def rendered(template: Template, roles: Roles, *, ahead: bool = False) -> str:
    """What a template makes of messages of these roles, each the `mark` of its place, ready for the next answer.

    Args:
        ahead: render conversations that may come in the same process.

    Raises:
        GenerationError: it raises an error, needs more time or memory than any template should, or leaves a message
            out.
        RenderingError: the process that renders it failed.
    """
    outcome = _KEPT.get(template, roles)
    if outcome is None:
        with _RENDERING:
            outcome = _KEPT.get(template, roles) or _render(template, roles, _ahead(template, roles) if ahead else ())
    if isinstance(outcome, _Refusal):
        raise unusable(outcome.reason)
    return outcome


def _ahead(template: Template, roles: Roles) -> list[Roles]:
    """The usual conversations, and those that this one may become; short ones first."""
    found = {start + _NEXT * step for start in _USUAL for step in range((LONGEST - len(start)) // 2 + 1)}
    found |= {roles + _NEXT * step for step in range(1, _STEPS_AHEAD + 1)}
    return sorted((one for one in found - {roles} if len(one) <= LONGEST and not is_known(template, one)), key=len)


def _render(template: Template, roles: Roles, ahead: Sequence[Roles]) -> str | _Refusal:
    """Renders and keeps.

    Raises:
        RenderingError: it is the process that failed, which may go better another time.
    """
    wanted = [roles, *ahead]
    outcomes = {
        place: _checked(wanted[place], told["text"]) if "text" in told else _Refusal(told["error"])
        for place, told in _said(template, wanted).items()
    }
    for place, outcome in reversed(outcomes.items()):  # the one that is wanted last, so that it is kept longest
        _KEPT.keep(template, wanted[place], outcome)
    return outcomes[0]


def _said(template: Template, wanted: Sequence[Roles]) -> dict[int, dict[str, str]]:
    """What the process said by places in `wanted`, of the first one in any case.

    Raises:
        RenderingError: as `_render`.
    """
    job = {
        "template": template.text,
        "special_tokens": loads(template.special_tokens),
        "conversations": [
            [{"role": role, "content": mark(place)} for place, role in enumerate(roles)] for roles in wanted
        ],
        "path": [place for place in sys.path if isinstance(place, str)],
        "seconds": SECONDS,
        "seconds_ahead": SECONDS_AHEAD,
        "memory": MEMORY,
        "most": MOST_CHARACTERS,
        "most_ahead": MOST_CHARACTERS_AHEAD,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD)],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        if said := _lines(error.stdout or b""):
            return said
        raise _failed(f"it has not ended after {DEADLINE} seconds, which may be other work on this machine") from error
    except OSError as error:
        raise _failed(f"the process that does so cannot be started ({error})") from error
    if said := _lines(done.stdout):
        return said
    if done.returncode == _KILLED:  # by the machine, for the memory of all
        raise _failed("the process that does so was killed, as a machine does that is out of memory")
    if done.returncode < 0:
        return {0: {"error": f"it has not ended after {SECONDS} seconds, or takes too much memory"}}
    words = done.stderr.decode(errors="replace").strip().split("\n")[-1]
    raise _failed(f"the process that does so failed ({words or 'without a word'})")


def _lines(output: bytes) -> dict[int, dict[str, str]]:
    """The whole lines of JSON in an output, by their places."""
    found: dict[int, dict[str, str]] = {}
    for line in output.splitlines():
        try:
            told = loads(line)
        except ValueError:  # the process was ended in the middle of it
            break
        found[int(told["place"])] = told
    return found


def _checked(roles: Roles, text: str) -> str | _Refusal:
    held = set(MARK.findall(text))
    lost = [role for place, role in enumerate(roles) if mark(place) not in held]
    return _Refusal(f"what it makes of a question does not hold the {_CALLED[lost[0]]}") if lost else text


def _size(outcome: str | _Refusal) -> int:
    return len(outcome if isinstance(outcome, str) else outcome.reason)


def _failed(reason: str) -> RenderingError:
    return RenderingError(
        f"the tokenizer's chat template could not be rendered: {reason}; ask again, or record a prompt in the "
        'adapter\'s config: "prompt": "... {question} ..."'
    )


def unusable(reason: str, kind: type[GenerationError] = GenerationError) -> GenerationError:
    """The error of a template that cannot be used."""
    return kind(
        f"the tokenizer's chat template cannot be used: {reason}; repair tokenizer.chat_template, or record a prompt "
        'in the adapter\'s config: "prompt": "... {question} ..."'
    )
