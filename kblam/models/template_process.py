"""Renders one chat template and ends: what a process of its own runs, so that its time and memory have an end.

It reads a job as JSON from stdin and writes {"text": ...} or {"error": ...} to stdout. It is run as a file, imports
nothing of kblam, and of transformers only what renders templates.
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
    try:
        result = {"text": _rendered(job)}
    except MemoryError:
        result = {"error": f"it needs more than {job['memory'] // 2**20:,} MiB of memory"}
    except Exception as error:  # a template raises what it likes
        result = {"error": f"{type(error).__name__}: {error}"[:1000]}
    json.dump(result, sys.stdout)


def _rendered(job: dict[str, Any]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(job["seconds"], job["memory"])
    rendered: Any = render_jinja_template(
        [job["messages"]],
        chat_template=job["template"],
        add_generation_prompt=True,
        **job["special_tokens"],
    )
    text = str(rendered[0][0])
    if len(text) > job["most"]:
        raise ValueError(f"it makes {len(text):,} characters of one question; {job['most']:,} is the most")
    return text


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
