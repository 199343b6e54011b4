"""What a row of figures cost: time to the first token, time for each token, peak memory."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from kblam_kernels.tools.env import cpu, version_of

_PACKAGES = ("kblam-kernels", "torch", "transformers", "sentence-transformers", "numpy", "faiss-cpu", "lm_eval")


class Stopwatch(BaseStreamer):
    """A streamer for one question at a time: notes when each token came, in seconds from its own making.

    Attributes:
        prompt: when `generate` began with the prompt; NaN before.
        tokens: when each token came.
        whole: when the answer was there, with its evidence; NaN before `finish`.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.prompt = self.whole = float("nan")
        self.tokens: list[float] = []

    def put(self, value: Any) -> None:
        """Called by `generate` with the prompt, then with each token."""
        now = time.perf_counter() - self.began
        if self.prompt != self.prompt:
            self.prompt = now
        else:
            self.tokens.append(now)

    def end(self) -> None:
        """Called by `generate` at the end."""

    def finish(self) -> None:
        """The answer is there."""
        self.whole = time.perf_counter() - self.began


@dataclass(frozen=True)
class Times:
    """Medians over questions asked one at a time.

    Args:
        first_token_ms: from the question as text to the first token of the answer.
        token_ms: for each later token, of the time until the answer is there; NaN if no answer had two.
        answer_ms: from the question as text until the answer is there, with its evidence.
        questions: how many were timed.
    """

    first_token_ms: float
    token_ms: float
    answer_ms: float
    questions: int

    @classmethod
    def of(cls, watches: Sequence[Stopwatch]) -> Times:
        """Of watches that saw at least one token."""
        runs = [watch for watch in watches if watch.tokens]
        later = [(run.whole - run.tokens[0]) / (len(run.tokens) - 1) for run in runs if len(run.tokens) > 1]

        def median(seconds: Sequence[float]) -> float:
            return 1000 * statistics.median(seconds) if seconds else float("nan")

        return cls(
            median([run.tokens[0] for run in runs]), median(later), median([run.whole for run in runs]), len(runs)
        )

    def to_dict(self) -> dict[str, float]:
        """Milliseconds to two places; what was not measured is left out."""
        found = {
            "first_token_ms": self.first_token_ms,
            "ms_per_token": self.token_ms,
            "answer_ms": self.answer_ms,
        }
        return {name: round(value, 2) for name, value in found.items() if value == value} | {"timed": self.questions}


class PeakMemory:
    """The most memory that this process held since the object was made, in MiB.

    Of CUDA where there is a device in use; else the resident set, which Linux counts (and here starts to count anew).
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._counted = False
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._counted = True
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self._counted = True
            except OSError:  # not Linux, or not allowed: then nothing is said rather than something wrong
                pass

    def mib(self) -> float | None:
        """None where it cannot be told."""
        if not self._counted:
            return None
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) / 2**20
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else None


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told: a GPU works on while Python goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on, as far as they are installed."""
    found = {package: version_of(package) for package in _PACKAGES}
    return {"python": platform.python_version()} | {name: known for name, known in found.items() if known}


def commit() -> str | None:
    """Of the checkout this package lies in, with "+" if it has changes; None for an installed package."""
    here = Path(__file__).parent
    try:
        told = [
            subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout
            for arguments in (["ls-files", Path(__file__).name], ["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    tracked, head, changes = (text.strip() for text in told)
    return head[:12] + ("+" if changes else "") if tracked else None


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu()['model'] or device.type}, {threads} thread{'s' if threads > 1 else ''}"
