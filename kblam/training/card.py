"""The README.md of a trained adapter: what it is, how it was made, and with what figures."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from kblam.counts import many
from kblam.models import smollm2
from kblam.models.loading import lasting_name
from kblam.shipped import TINY
from kblam.whole import write_whole

if TYPE_CHECKING:
    from kblam.training.run import Trainer

FILE = "README.md"
_CARD = """\
---
library_name: kblam
{hub_line}tags: [kblam, knowledge-base]
---
# A kblam adapter for {base}

It attaches a knowledge base of triples, built with the encoder `{encoder}`, to `{base}`:

    kblam ask "..." --adapter FOLDER --kb facts.kb

{parts}

## How it was made

`kblam train` with the settings below, {in_parts}in {minutes} on {device}: {retrieval} without the
language model, {steps} of {rows} through it. {facts} about {entities}{own}.
{encoded} encoded in this time.

A question is known from a confidence of {known_above} on. On the {checked} questions that its weights were learned
from ({about}), refusals were right in {precision:.3f} and found in {recall:.3f} of the cases, and
the likeliest triple was the right one in {top1:.3f}. These are no test figures: see `kblam eval`.

```yaml
{settings}```

kblam {version}, torch {torch}.
"""
_QUESTION = """\
- **The encoder** compares: a question's own sentence vector is part of every knowledge query (question head: {head}).
- **Attention** chooses: one softmax over prompt and knowledge, in layers {layers}; layer {evidence} finds the triples.
"""
_PLAIN = """\
- KBLaM's plain query: knowledge queries come from the hidden states alone, in layers {layers}.
"""
_BOTH = """\
- **A confidence** chooses among the strongest sixteen and the triples of names that the question says, or none:
  attention mass, the question's own words, and the share of the triple's property when the question is read without the
  name, by a head that has learned just that.
- **The pointer** {copies}"""


def _device(trainer: Trainer) -> str:
    device = next(trainer.adapter.parameters()).device  # an accelerator's may have no number
    if device.type == "cpu":
        return f"{many(torch.get_num_threads(), 'thread')} of an {platform.machine()} processor"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a device of type {device.type}"


def _hub_name(model: str) -> str | None:
    """The base as the hub knows it, which refuses a card that names a folder."""
    if model == smollm2.NAME:
        return smollm2.HUB_NAME
    is_here = model == TINY or Path(lasting_name(model)).is_absolute()
    return None if is_here else model


def write_card(trainer: Trainer, seconds: float) -> None:
    """Writes README.md beside the adapter, unless one is there that somebody wrote or changed by hand.

    A card ends with a line that has a hash of what stands above; with that, or as the hub's mixin makes it, it is ours.
    """
    config, material, calibration = trainer.config, trainer.material, trainer.calibration
    adapter = material.adapter_config
    assert calibration is not None, "the card is written after `finish`"
    copies = "copies the triple's text, weighted by its attention mass." if config.pointer else "is off."
    parts = ((_PLAIN if adapter.question_head is None else _QUESTION) + _BOTH).format(
        head=adapter.question_head,
        layers=", ".join(map(str, adapter.knowledge_layers)),
        evidence=adapter.evidence_layer,
        copies=copies,
    )
    text = _CARD.format(
        base=config.model,
        hub_line="" if (hub_name := _hub_name(config.model)) is None else f"base_model: {hub_name}\n",
        encoder=config.encoder or material.encoder.spec,
        parts=parts,
        in_parts="in parts, the last " if trainer.resumed else "",
        minutes=many(max(1, round(seconds / 60)), "minute"),
        encoded=many(material.vectors.encoded + material.calibration.encoded, "text was", "texts were"),
        device=_device(trainer),
        retrieval=many(config.retrieval_steps if adapter.question_head else 0, "step"),
        steps=many(config.max_steps, "step"),
        rows=many(trainer.rows, "row"),
        facts=many(len(material.train), "synthetic fact"),
        entities=many(len(material.train.entities), "entity", "entities"),
        own=", the user's own triples among them" if material.own else "",
        known_above=calibration.known_above,
        about="the user's own triples, which training had too" if material.own else "facts held out of training",
        checked=calibration.questions,
        precision=calibration.precision,
        recall=calibration.recall,
        top1=calibration.top1,
        settings=yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True),
        version=metadata.version("kblam-kernels"),
        torch=torch.__version__,
    )
    path = trainer.output / FILE
    if path.exists() and not _is_ours(path, trainer):
        trainer.say(f"{path} was changed by hand, so it stays as it is")
        return
    write_whole(path, text + _seal(text))


def _seal(text: str) -> str:
    return f"\n<!-- written by kblam train, {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def _is_ours(path: Path, trainer: Trainer) -> bool:
    there = path.read_text(encoding="utf-8", errors="replace")
    body = there.rpartition("\n<!--")[0]
    return there == body + _seal(body) or there.strip() == str(trainer.adapter.generate_model_card()).strip()
