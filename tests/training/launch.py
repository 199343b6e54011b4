"""Several processes of `tests.training.worker` on one machine, started as a launcher or as `accelerate launch` does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = "tests.training.worker"


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_two(cache: Path, output: Path, *settings: str, **environment: str) -> list[subprocess.Popen[bytes]]:
    """Two processes of one run, not waited for."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", WORKER, str(cache), str(output), *settings]
    return [
        subprocess.Popen(
            command, env={**os.environ, **shared, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]


def accelerate_two(flags: list[str], cache: Path, output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Two processes of one run, by `accelerate launch`; waits for their end."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command = [*launcher, "--main_process_port", str(free_port()), *flags, "-m", WORKER, str(cache), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *settings], env=environment, capture_output=True, text=True, timeout=240)
