"""A small run as a process: `python -m tests.training.worker CACHE OUTPUT [NAME=NUMBER ...]`.

Its rank and the number of processes are in the environment, where there are several. `resume=1` goes on from what
OUTPUT holds, and `finish=1` writes the adapter at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kblam.training.material import gather
from kblam.training.run import Trainer
from kblam.training.sharding import share_held
from tests.training.conftest import small, stand_ins


def main() -> None:
    """Trains, writes log and checkpoints, and says in a file of each process what share of the base lay in it."""
    cache, output = map(Path, sys.argv[1:3])
    changes = {name: int(value) for name, _, value in (change.partition("=") for change in sys.argv[3:])}
    resume, finish = bool(changes.pop("resume", 0)), bool(changes.pop("finish", 0))
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_ins(monkeypatch)
        config = small(**changes)
        trainer = Trainer(config, gather(config, cache=cache), output, say=[].append)
        trainer.fit(resume=resume)
        if finish:
            trainer.finish()
    held = {"held": share_held(trainer.material.model)}
    (output / f"process-{trainer.accelerator.process_index}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main()
