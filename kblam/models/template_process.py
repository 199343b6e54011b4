"""Renders one chat template and ends: what a process of its own runs, so that its time and memory have an end.

It reads a job as JSON from stdin and writes a line of JSON for each conversation, {"place": ..., "text": ...} or
{"place": ..., "error": ...}. The first conversation is the one that is wanted; the others are rendered ahead, as far as
there is time. It is run as a file, imports nothing of kblam, and of transformers only what renders templates.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows, where only the caller's deadline holds
    resource = None  # type: ignore[assignment]


def main() -> None:
    """Does the job on stdin."""
    job = json.load(sys.stdin)
    sys.path[:] = job["path"]
    wanted, *ahead = job["conversations"]
    try:
        _say(0, text=_first(job, wanted))
    except MemoryError:
        _say(0, error=f"it needs more than {job['memory'] // 2**20:,} MiB of memory")
        return
    except Exception as error:  # a template raises what it likes
        _say(0, error=f"{type(error).__name__}: {error}"[:1000])
    _render_ahead(job, ahead)


def _first(job: dict[str, Any], conversation: list[dict[str, str]]) -> str:
    import transformers.utils.chat_template_utils  # noqa: F401 - what it takes is not the template's

    _limit(job["seconds"], job["memory"])
    text = _rendered(job, conversation)
    if len(text) > job["most"]:
        raise ValueError(f"it makes {len(text):,} characters of one question; {job['most']:,} is the most")
    return text


def _render_ahead(job: dict[str, Any], conversations: list[list[dict[str, str]]]) -> None:
    end, room = time.process_time() + job["seconds_ahead"], job["most_ahead"]
    for place, conversation in enumerate(conversations, start=1):
        if time.process_time() > end:
            return
        try:
            text = _rendered(job, conversation)
        except MemoryError:
            return
        except Exception:  # it is told to whoever wants this one
            continue
        if (room := room - len(text)) < 0:
            return
        _say(place, text=text)


def _rendered(job: dict[str, Any], conversation: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        [conversation],
        chat_template=job["template"],
        add_generation_prompt=True,
        **job["special_tokens"],
    )
    return str(rendered[0][0])


def _say(place: int, **said: str) -> None:
    sys.stdout.write(json.dumps({"place": place, **said}) + "\n")
    sys.stdout.flush()  # the next one may end this process


def _limit(seconds: int, memory: int) -> None:
    """Limits what is still to come, not what importing took."""
    if resource is None:
        return
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 1))
    taken = Path("/proc/self/statm")
    if taken.exists():
        limit = int(taken.read_text().split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
