"""How long a run will take on this machine, told before it starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from kblam.counts import many
from kblam.models import attach, detach
from kblam.training.checkpoints import RETRIEVAL_FOLDER, checkpoints
from kblam.training.language import Learner, counts_of, total_loss
from kblam.training.retrieval import retrieval_losses
from kblam.training.start import Measured, initialise

if TYPE_CHECKING:
    from kblam.training.run import Trainer

_TRIED = 2  # steps of each stage, after one that is not timed


def estimate(trainer: Trainer) -> str:
    """A sentence with the time of what is left of each stage, from a few steps of it; the weights stay as they were."""
    config, material, adapter = trainer.config, trainer.material, trainer.adapter
    before = {name: weight.clone() for name, weight in adapter.state_dict().items()}
    layers, device = material.adapter_config.knowledge_layers, material.model.device
    # Timing does not depend on what the prompt weighs.
    measured = Measured.usual(material.adapter_config, 4.0)
    initialise(adapter, measured, config.seed)
    seconds, began = dict[str, float](), time.monotonic()
    first, second = _left(trainer)
    if first:
        data = trainer.retrieval_data()
        heads = len(layers), material.adapter_config.num_heads
        for step in range(_TRIED + 1):
            if step == 1:
                _wait(device)
                began = time.monotonic()
            batch = data.batch(step)
            weighs = torch.full((*heads, len(batch.question)), 4.0, dtype=torch.float32)
            retrieval, refusal = retrieval_losses(adapter, batch, weighs, measured.scale, bf16=config.bf16 is True)
            (retrieval + refusal).backward()
        _wait(device)
        seconds["stage 1"] = (time.monotonic() - began) / _TRIED * first
    if second:
        learner = Learner(adapter, attach(material.model, adapter, trainable=True))
        passes = config.gradient_accumulation_steps
        for step in range(_TRIED + 1):
            if step == 1:
                _wait(device)
                began = time.monotonic()
            asked = trainer.builder.build(step)
            mine = trainer.inputs(asked, 0, passes * trainer.accelerator.num_processes)
            total_loss(learner(*mine), counts_of(asked.batch)).backward()
        _wait(device)
        seconds["stage 2"] = (time.monotonic() - began) / _TRIED * passes * second
        detach(material.model)
    adapter.zero_grad(set_to_none=True)
    adapter.load_state_dict(before)
    stages = "".join(f"{stage} takes about {_minutes(each)}, " for stage, each in seconds.items())
    confidence = "and then the confidence" if stages else "the confidence takes"
    return f"{stages}{confidence} some minutes, on this machine as it is now"


def _left(trainer: Trainer) -> tuple[int, int]:
    """Steps of each stage that the run's folder does not have."""
    config, found = trainer.config, checkpoints(trainer.output)
    has_first = bool(found) or (trainer.output / RETRIEVAL_FOLDER).is_dir()
    first = 0 if has_first or config.question_head is None else config.retrieval_steps
    return first, max(0, config.max_steps - (found[-1][0] if found else 0))


def _wait(device: torch.device) -> None:
    """Until what was launched is done: a GPU computes while Python goes on."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _minutes(seconds: float) -> str:
    """In words, one at least."""
    return many(max(1, round(seconds / 60)), "minute")
