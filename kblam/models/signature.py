"""A few dozen numbers that recognise a base model by its weights, whatever precision they are stored in.

An adapter fits the weights it was trained on, and shapes alone do not tell two models apart. Names do not either: the
same model lies under a hub name, in a folder, and in a file of 4 bits a weight.

The numbers are products of a fixed vector of signs with a fixed sample of the rows of the embeddings, and of the first
and the last projection of the middle layer's attention. The modules are called, not read, so it does not matter how
they store their weights. Each part has its mean removed (rows of one matrix often share a direction, and then any two
models would look alike or opposite) and length 1.

Measured on SmolLM2-135M, cosine with the model itself: bfloat16, float16 and float32 1.000 to each other, packed GGUF
1.000, 8 bits 1.000, 5 bits .999, 4 bits .993 to .995, 3 bits .957 to .981, 2 bits .74 to .91 (rounded in groups of 64);
twelve random models of its shape -.34 to .36; with noise of a tenth of the weights' size .995, a third .95, the whole
.67. So the limit is .95. A model that was trained a little further is not told from its base: 40 steps of AdamW at 1e-3
leave .998, which is less than 4 bits cost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.errors import UnsupportedModelError
from kblam.models.devices import execution_device
from kblam.models.families import attention_modules

SAME_MODEL = 0.95
_OF_EMBEDDINGS, _OF_PROJECTION = 24, 12
# Tokens that every vocabulary has and that are not special; a vocabulary that was extended keeps them.
_FIRST_TOKEN, _TOKEN_STEP = 300, 41
_SEED = 20261101


@torch.no_grad()
def signature_of(model: PreTrainedModel) -> tuple[float, ...]:
    """The signature of a model's weights as they are now: 48 numbers, in milliseconds.

    Raises:
        UnsupportedModelError: the model is not a stack of decoder layers, or its weights are not loaded.
    """
    embeddings: Any = model.get_input_embeddings()
    if (device := execution_device(embeddings)) is not None and device.type == "meta":
        raise UnsupportedModelError(f"the weights of this {type(model).__name__} are not loaded (meta device)")
    parts = [_of_embeddings(embeddings)]
    attention = attention_modules(model)
    # Children, not modules: a LoRA around a projection is part of it, and its own matrices are no projections.
    projections = [module for module in attention[len(attention) // 2].children() if hasattr(module, "in_features")]
    parts += [_of_projection(module, embeddings.weight) for module in (projections[0], projections[-1])]
    # A part with more numbers counts for more: the cosine of signatures is that of embeddings and layer in equal parts.
    numbers = torch.cat([_centred(part) * math.sqrt(len(part)) for part in parts])
    return tuple(round(number, 4) for number in (numbers / numbers.norm()).tolist())


def similarity(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The cosine of two signatures; two of different lengths have nothing in common (0)."""
    norms = math.hypot(*one) * math.hypot(*other)
    if len(one) != len(other) or not norms:
        return 0.0
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms


def _of_embeddings(embeddings: nn.Embedding) -> Tensor:
    rows = torch.arange(_OF_EMBEDDINGS) * _TOKEN_STEP + _FIRST_TOKEN
    if embeddings.num_embeddings <= int(rows[-1]):
        rows = torch.arange(_OF_EMBEDDINGS) * embeddings.num_embeddings // _OF_EMBEDDINGS
    vectors = embeddings(rows.to(execution_device(embeddings) or "cpu")).float().cpu()
    return vectors @ _signs(vectors.shape[1])


def _of_projection(projection: Any, like: Tensor) -> Tensor:
    device = execution_device(projection) or like.device
    image = projection(_signs(projection.in_features).to(device, like.dtype)[None])[0].float().cpu()
    return image[torch.arange(_OF_PROJECTION) * len(image) // _OF_PROJECTION]


def _centred(part: Tensor) -> Tensor:
    part = part - part.mean()
    return part / part.norm().clamp_min(1e-12)


def _signs(length: int) -> Tensor:
    """1 and -1 by chance, float32 (length,); the same on every machine: numpy keeps this generator as it is."""
    return torch.from_numpy(np.random.RandomState(_SEED).randint(0, 2, length, np.int64).astype(np.float32) * 2 - 1)
