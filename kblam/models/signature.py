"""Numbers that recognise a base model by its weights, whatever precision they are stored in.

An adapter fits the weights it was trained on, and shapes alone do not tell two models apart. Names do not either: the
same model lies under a hub name, in a folder, and in a file of 4 bits a weight.

A matrix is multiplied by a fixed vector of signs, and the mean of what comes out is removed: rows of one matrix often
share a direction, and then any two models would look alike or opposite. A few sums of that with fixed signs stand for
the matrix; each weight counts in all of them. Modules are called, not read, so it does not matter how they store their
weights.

- 16 such numbers of every matrix of every layer, and of the head if it is not the embeddings. A matrix is another one
  where their cosine is below .85. Norms and biases are left out: they are nearly the same in any two models.
- 48 numbers of a fixed sample of the rows of the embeddings, and of the first and the last projection of the middle
  layer's attention (12 rows of each). Older adapters record only these; the limit for all of them together is .95.

Measured on SmolLM2-135M, cosine with the model itself (rounded in groups of 64; noise in parts of the weights' size):

- the 48 numbers: bfloat16, float16, float32, packed GGUF and 8 bits 1.000, 5 bits .999, 4 bits .993 to .995, 3 bits
  .957 to .981, 2 bits .74 to .91; noise of a tenth .995, a third .95, the whole .67; twelve random models of its shape
  -.34 to .36;
- the worst of its 210 matrices: in half and single precision and 8 bits 1.000, 5 bits .995, 4 bits .978, 3 bits .886, 2
  bits .39; noise of a tenth .978, a third .83.

A model that was trained a little further is not told from its base: 40 steps of AdamW at 1e-3 leave .998, which is less
than 4 bits cost.

It reads every weight once, as a forward pass of one token does: .12 seconds for SmolLM2 on one core of a Xeon. A model
of 8 billion weights has 66 times as many in its layers, so about 8 seconds there; the proof at attach reads them three
times. An adapter that records no layers costs what it did, 9 ms.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.adapter.signature import Signature, coded, decoded
from kblam.errors import UnsupportedModelError
from kblam.models.devices import execution_device
from kblam.models.families import attention_modules

SAME_MODEL, SAME_MATRIX = 0.95, 0.85
_OF_MATRIX = 16
_OF_EMBEDDINGS, _OF_PROJECTION = 24, 12
# Tokens that every vocabulary has and that are not special; a vocabulary that was extended keeps them.
_FIRST_TOKEN, _TOKEN_STEP = 300, 41
_SEED, _SUMS_SEED = 20261101, 20261102


@torch.no_grad()
def signature_of(model: PreTrainedModel, *, layers: bool = True) -> Signature:
    """The signature of a model's weights as they are now; without `layers` in milliseconds.

    Raises:
        UnsupportedModelError: the model is not a stack of decoder layers, has no head, or its weights are not loaded.
    """
    embeddings: Any = model.get_input_embeddings()
    if (device := execution_device(embeddings)) is not None and device.type == "meta":
        raise _not_loaded(model)
    attention = attention_modules(model)
    # Children, not modules: a LoRA around a projection is part of it, and its own matrices are no projections.
    projections = [module for module in attention[len(attention) // 2].children() if hasattr(module, "in_features")]
    if not projections:
        raise UnsupportedModelError(
            f"the attention of {type(model).__name__} has no linear layers that say their in_features, so its weights "
            "cannot be recognised"
        )
    like = embeddings.weight
    with _gathered(_layer_of(model, attention[len(attention) // 2])):
        first, last = (_image(module, like) for module in (projections[0], projections[-1]))
    embedded = _of_embeddings(embeddings)
    return signature_from(type(model).__name__, embedded, first, last, _layers(model, like) if layers else ())


def signature_from(
    name: str, embedded: Tensor, first: Tensor, last: Tensor, layers: Iterable[Iterable[Tensor]]
) -> Signature:
    """The signature of a model of which this is known.

    Args:
        name: of its class, for the message.
        embedded: rows `sampled_tokens` of the embeddings, multiplied by `signs`.
        first, last: the first and the last projection of the middle layer's attention, multiplied by `signs`.
        layers: of every layer, every matrix in their order, multiplied by `signs`; of a head with weights of its own,
            the rows `sampled_tokens` of that.

    All are float32 and on the CPU.

    Raises:
        UnsupportedModelError: some are not finite.
    """
    of_each = torch.arange(_OF_PROJECTION, device="cpu")
    parts = [embedded, *(image[of_each * len(image) // _OF_PROJECTION] for image in (first, last))]
    # A part with more numbers counts for more: the cosine of signatures is that of embeddings and layer in equal parts.
    numbers = torch.cat([_centred(part) * math.sqrt(len(part)) for part in parts])
    numbers = numbers / numbers.norm()
    sums = [[_sums(image) for image in layer] for layer in layers]
    if any(torch.isnan(part).any() for layer in sums for part in layer):
        raise UnsupportedModelError(f"the weights of this {name} hold NaN or infinity")
    texts = (coded(torch.cat(layer).to(torch.int8).numpy().tobytes()) if layer else "" for layer in sums)
    return Signature(tuple(round(number, 4) for number in numbers.tolist()), tuple(texts))


def _layers(model: PreTrainedModel, like: Tensor) -> Iterator[Iterator[Tensor]]:
    for layer in model.get_decoder().layers:
        yield _of_layer(layer, like)
    if not model.config.get_text_config().tie_word_embeddings:
        if (head := model.get_output_embeddings()) is None:
            raise UnsupportedModelError(
                f"this {type(model).__name__} has no language-model head, whose weights the adapter's model is known "
                "by; load it with AutoModelForCausalLM"
            )
        yield iter([_of_rows(_image(head, like))])


def _of_layer(layer: nn.Module, like: Tensor) -> Iterator[Tensor]:
    with _gathered(layer):
        for image in _images(layer, like):
            yield image()


def _layer_of(model: PreTrainedModel, attention: nn.Module) -> nn.Module:
    return next(layer for layer in model.get_decoder().layers if attention in layer.modules())


def similarity(one: Signature, other: Signature) -> float:
    """The cosine of the numbers of two signatures; of different lengths they have nothing in common (0)."""
    return _cosine(one.numbers, other.numbers)


def other_layer(recorded: Signature, found: Signature) -> tuple[int, float] | None:
    """The layer with the matrix that is least alike, and how much it is, if one is below `SAME_MATRIX`; else None.

    None too if one of the two knows nothing of its layers. A layer of other matrices is not alike at all (0).
    """
    if not recorded.layers or not found.layers:
        return None
    if len(recorded.layers) != len(found.layers):
        return min(len(recorded.layers), len(found.layers)), 0.0
    alike = [_least(decoded(one), decoded(other)) for one, other in zip(recorded.layers, found.layers, strict=True)]
    least = min(alike)
    return None if least >= SAME_MATRIX else (alike.index(least), least)


def _least(one: bytes, other: bytes) -> float:
    """The smallest cosine of the matrices of a layer."""
    if len(one) != len(other):
        return 0.0
    starts = range(0, len(one), _OF_MATRIX)
    pairs = [tuple(_signed(layer[start : start + _OF_MATRIX]) for layer in (one, other)) for start in starts]
    return min((1.0 if mine == its else _cosine(mine, its) for mine, its in pairs), default=1.0)


def _signed(numbers: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(numbers, np.int8).astype(float).tolist())


def _cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    if len(one) != len(other) or not norms:
        return 0.0
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms


def _not_loaded(model: nn.Module) -> UnsupportedModelError:
    return UnsupportedModelError(f"the weights of this {type(model).__name__} are not loaded (meta device)")


def _images(module: nn.Module, like: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Of every matrix of a module, in the order in which they were made: what it makes of the signs."""
    for child in module.children():
        if hasattr(child, "in_features"):  # not what is in it: that is how it stores its weights, or a LoRA
            yield functools.partial(_image, child, like)
        else:
            yield from _images(child, like)
    for name, own in module.named_parameters(recurse=False):
        if own.dim() > 1 and own.is_floating_point():  # of experts, say
            yield functools.partial(_image_of_weight, module, name)


def _image(linear: Any, like: Tensor) -> Tensor:
    device = execution_device(linear) or like.device
    return linear(signs(linear.in_features).to(device, like.dtype)[None])[0].float().cpu()


def _image_of_weight(module: nn.Module, name: str) -> Tensor:
    with _in_memory(module):
        weight = module.get_parameter(name)
        if weight.is_meta:
            raise _not_loaded(module)
        image = weight @ signs(weight.shape[-1]).to(weight)
        while image.dim() > 1:  # what is stacked is summed, with a sign for each
            image = (image.movedim(0, -1) @ signs(image.shape[0]).to(image)) if image.shape[0] > 1 else image[0]
        return image.float().cpu()


@contextlib.contextmanager
def _gathered(layer: Any) -> Iterator[None]:
    """The weights of a layer that FSDP has cut over processes are whole in this block; other layers are left alone."""
    if not hasattr(layer, "unshard"):  # an FSDPModule has it; importing the class takes longer than a signature
        yield
        return
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()


@contextlib.contextmanager
def _in_memory(module: nn.Module) -> Iterator[None]:
    """Weights that accelerate keeps elsewhere are there in this block."""
    if getattr(module, "_hf_hook", None) is None:
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def _sums(image: Tensor) -> Tensor:
    """(n,) -> float32 (16,), whole numbers of -127 .. 127 of which one is at the end."""
    sums = _sum_signs(len(image)) @ (image - image.mean())
    return (sums / sums.abs().max().clamp_min(1e-30) * 127).round()


@functools.lru_cache(maxsize=32)
def _sum_signs(length: int) -> Tensor:
    """1 and -1 by chance, float32 (16, length)."""
    drawn = np.random.RandomState(_SUMS_SEED).randint(0, 2, (length, _OF_MATRIX), np.int64)
    return torch.from_numpy(drawn.astype(np.float32) * 2 - 1).T


def _of_embeddings(embeddings: nn.Embedding) -> Tensor:
    rows = sampled_tokens(embeddings.num_embeddings)
    vectors = embeddings(rows.to(execution_device(embeddings) or "cpu")).float().cpu()
    return vectors @ signs(vectors.shape[1])


def _of_rows(image: Tensor) -> Tensor:
    return image[sampled_tokens(len(image))]


def sampled_tokens(vocabulary: int) -> Tensor:
    """The tokens whose rows of the embeddings, and of a head, stand for all."""
    places = torch.arange(_OF_EMBEDDINGS, device="cpu")
    rows = places * _TOKEN_STEP + _FIRST_TOKEN
    return rows if vocabulary > int(rows[-1]) else places * vocabulary // _OF_EMBEDDINGS


def _centred(part: Tensor) -> Tensor:
    part = part - part.mean()
    return part / part.norm().clamp_min(1e-12)


@functools.lru_cache(maxsize=32)
def signs(length: int) -> Tensor:
    """1 and -1 by chance, float32 (length,); the same on every machine: numpy keeps this generator as it is."""
    return torch.from_numpy(np.random.RandomState(_SEED).randint(0, 2, length, np.int64).astype(np.float32) * 2 - 1)
