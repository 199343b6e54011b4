"""FSDP of the frozen base: each process holds a part of its weights, and a layer is whole while it computes.

accelerate shards what learns. Here that is the adapter, which is small and stays whole in each process. So the launch
is accelerate's, and the base is sharded by PyTorch's `fully_shard`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from kblam.errors import TrainingError


def shard(model: PreTrainedModel, device: torch.device, processes: int, *, reshard_after_forward: bool = True) -> None:
    """Leaves each process its part of the decoder's layers, and of embeddings and head where those are not one matrix.

    To be called in all processes, each with the same weights. A model that is sharded already is left as it is.

    Args:
        device: where this process computes; the model may lie elsewhere.
        reshard_after_forward: layers are given back after the forward pass, and gathered again for the backward.

    Raises:
        TrainingError: a weight cannot be cut, since it is quantised or cut already.
    """
    decoder: Any = model.get_decoder()
    if is_sharded(model):
        return
    _check_weights(model)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    mesh = init_device_mesh(device.type, (processes,))

    def cut(module: nn.Module, whole: set[nn.Parameter] | None = None) -> None:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, ignored_params=whole)

    for layer in decoder.layers:
        cut(layer)
    if head.weight is embeddings.weight:
        # Used at both ends of a pass, in modules that are called apart: FSDP has no unit for that.
        embeddings.to(device)
        cut(decoder, {embeddings.weight})
    else:
        cut(embeddings)
        cut(head)
        cut(decoder)
    # The first call decides which module gathers for the others: that has to be the decoder, not a part of it.
    with torch.no_grad():
        decoder(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether a model's weights lie in parts over processes."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def share_held(model: PreTrainedModel) -> float:
    """Of all numbers of a model's weights, the share that lies in this process."""
    weights = list(model.parameters())
    held = sum(weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in weights)
    return held / sum(weight.numel() for weight in weights)


def _check_weights(model: PreTrainedModel) -> None:
    for name, weight in model.named_parameters():
        # Quantised weights are whole numbers, or of a class of their own that knows how to read them.
        if type(weight) is not nn.Parameter or not weight.is_floating_point():
            raise TrainingError(
                f"FSDP cannot shard {name} of the base, {weight.dtype} as {type(weight).__name__}: load it unquantised "
                "(bfloat16), or launch without --use_fsdp, so that each process holds all of it"
            )
