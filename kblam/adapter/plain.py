"""Whether a module is no more than its weights, so that they may be read in its place."""

from __future__ import annotations

from torch import nn


def is_plain_linear(module: nn.Module) -> bool:
    """A linear layer that no LoRA wraps and no hook, parametrization or forward of its own makes something else."""
    return type(module) is nn.Linear and not _is_hooked(module)


def ends_plainly(module: nn.Module) -> bool:
    """A plain linear layer, or a plain sequence of layers whose last one is. The others are called, whatever they are.

    Only such a projector can move from the knowledge to the queries.
    """
    if type(module) is nn.Sequential:
        return len(module) > 0 and is_plain_linear(module[-1]) and not _is_hooked(module)
    return is_plain_linear(module)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
