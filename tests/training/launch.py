"""Several processes of `tests.training.worker` on one machine, started as a launcher or as `accelerate launch` does."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests import warm

WORKER = "tests.training.worker"


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_two(cache: Path, output: Path, *settings: str, **environment: str) -> list[warm.Process]:
    """Two processes of one run, not waited for; for tests with the fixture `warm`."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    return [warm.start("-m", WORKER, cache, output, *settings, **shared, **environment, **rank) for rank in ranks]


def accelerate_two(flags: list[str], cache: Path, output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Two processes of one run, by `accelerate launch`; waits for their end."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", str(free_port())]
    return warm.run(*launcher, *flags, "-m", WORKER, cache, output, *settings, OMP_NUM_THREADS="1")
