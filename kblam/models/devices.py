"""Where a model's attention runs. `model.device` is where its first weight lies, and offloading puts that elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from kblam.errors import UnsupportedModelError


def device_of(model: PreTrainedModel, attentions: Sequence[nn.Module]) -> torch.device:
    """The device on which attention modules compute, also while their weights are offloaded to memory or disk.

    Raises:
        UnsupportedModelError: they compute on several devices, or their weights are not loaded.
    """
    found = {execution_device(attention) or model.device for attention in attentions}
    if len(found) > 1:
        names = ", ".join(sorted(map(str, found)))
        raise UnsupportedModelError(
            f"the knowledge layers of this {type(model).__name__} compute on several devices ({names}), and knowledge "
            "lies on one; load the model with a device_map that keeps them together"
        )
    device = found.pop()
    if device.type == "meta":
        raise UnsupportedModelError(f"the weights of this {type(model).__name__} are not loaded (meta device)")
    return device


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model reads token ids, their mask and their places; its layers may compute elsewhere."""
    return execution_device(model.get_input_embeddings()) or model.device


def execution_device(module: nn.Module) -> torch.device | None:
    """Where a module computes: what accelerate's hook says, else where its first weight lies; None without weights."""
    for part in module.modules():
        device = _of_hook(getattr(part, "_hf_hook", None))
        if device is not None:
            return device
    first = next(module.parameters(), next(module.buffers(), None))
    return None if first is None else first.device


def _of_hook(hook: Any) -> torch.device | None:
    for one in getattr(hook, "hooks", (hook,)):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return _with_its_number(torch.device(device))
    return None


def _with_its_number(device: torch.device) -> torch.device:
    """As tensors name it: a hook may say "cuda" of what its tensors call "cuda:0"."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
