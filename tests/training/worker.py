"""A small run as a process: `python -m tests.training.worker CACHE OUTPUT [NAME=NUMBER ...]`.

Its rank and the number of processes are in the environment, where there are several.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kblam.training.material import gather
from kblam.training.run import Trainer
from tests.training.conftest import small, stand_ins


def main() -> None:
    """Trains and writes log and checkpoints."""
    cache, output = map(Path, sys.argv[1:3])
    changes = {name: int(value) for name, _, value in (change.partition("=") for change in sys.argv[3:])}
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_ins(monkeypatch)
        config = small(**changes)
        Trainer(config, gather(config, cache=cache, checks=40), output, say=[].append).fit()


if __name__ == "__main__":
    main()
