"""One of several processes of a small run: `python -m tests.training.worker CACHE OUTPUT`, ranks in the environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kblam.training.material import gather
from kblam.training.run import Trainer
from tests.training.conftest import small, stand_ins


def main() -> None:
    """Trains and writes log and checkpoints."""
    cache, output = map(Path, sys.argv[1:])
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_ins(monkeypatch)
        config = small(per_device_train_batch_size=2)
        Trainer(config, gather(config, cache=cache, checks=40), output, say=[].append).fit()


if __name__ == "__main__":
    main()
