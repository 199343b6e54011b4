"""The card of the shipped adapter says with which settings it was trained."""

from __future__ import annotations

import re

import yaml

from experiments.figures import ROOT
from kblam.training.config import TrainingConfig

# The machine decides it where the config does not.
_BY_MACHINE = {"bf16"}


def test_the_card_has_the_settings_of_the_committed_config() -> None:
    """A default that has changed since is another adapter: train it anew, or name the old value in the config."""
    card = (ROOT / "kblam" / "assets" / "smollm2" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert block is not None
    told = yaml.safe_load(block[1])
    wanted = TrainingConfig.read(ROOT / "experiments" / "smollm2.yaml").to_dict()
    assert {name: told.get(name) for name in wanted.keys() | told.keys() if name not in _BY_MACHINE} == {
        name: wanted.get(name) for name in wanted.keys() | told.keys() if name not in _BY_MACHINE
    }
