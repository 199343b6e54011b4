"""The processes of a run as `accelerate launch` started them: what is served of it, and where each one computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    disable_fsdp_ram_efficient_loading,
)

from kblam.errors import TrainingError, argument

# The others wait while the main process encodes and runs stage 1, which may take hours; torch gives up after minutes.
_PATIENCE = timedelta(days=7)
_FSDP = "ACCELERATE_USE_FSDP"
_UNSERVED = {
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}
_SERVED = "launch it with --multi_gpu, or with --use_fsdp --fsdp_version 2"


def start(device: str | None = None) -> Accelerator:
    """Joins the other processes of the launch; before any model is loaded.

    Args:
        device: where to compute; None is a GPU where there is one. Of several processes each has a GPU of its own.

    Raises:
        TrainingError: the launch asks for what is not served.
    """
    check_launch(os.environ)
    if _is_on(os.environ, _FSDP):
        # Each process reads the whole base: its signature is made of the whole, before it is sharded.
        disable_fsdp_ram_efficient_loading()
    wanted = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    accelerator = Accelerator(cpu=wanted.type == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
    if accelerator.num_processes > 1 and wanted.index is not None:
        option = argument("device", "--device", ("train",))
        raise TrainingError(f"the device is {device}, but each process has one of its own; leave {option} out")
    return accelerator


def check_launch(environment: Mapping[str, str]) -> None:
    """Checks what `accelerate launch` says in the environment, so that nothing else is trained than was asked for.

    Raises:
        TrainingError: it asks for what is not served.
    """
    for name, flag in _UNSERVED.items():
        if _is_on(environment, name):
            raise TrainingError(f"kblam train does not serve {flag}; {_SERVED}")
    precision = environment.get("ACCELERATE_MIXED_PRECISION") or "no"
    if precision not in ("no", "bf16"):
        raise TrainingError(
            f"kblam train does not serve --mixed_precision {precision}, which needs scaled losses; use bf16, or no"
        )
    if not _is_on(environment, _FSDP):
        return
    if (version := environment.get("FSDP_VERSION") or "1") != "2":
        raise TrainingError(
            f"the launch asks for FSDP {version}, and kblam train serves version 2 only; pass --fsdp_version 2"
        )
    for name, flag in (
        ("FSDP_OFFLOAD_PARAMS", "--fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "--fsdp_activation_checkpointing"),
    ):
        if _is_on(environment, name):
            raise TrainingError(f"kblam train does not serve {flag} true; pass {flag} false")
    if ignored := environment.get("FSDP_IGNORED_MODULES"):
        raise TrainingError(
            f"kblam train shards all layers of the base and cannot ignore {ignored!r}; leave fsdp_ignored_modules out"
        )


def check_accelerator(accelerator: Accelerator) -> None:
    """Checks an accelerator that was made elsewhere.

    Raises:
        TrainingError: it asks for what is not served.
    """
    check_launch({**os.environ, "ACCELERATE_MIXED_PRECISION": accelerator.mixed_precision})
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA):
        raise TrainingError(f"kblam train does not serve {accelerator.distributed_type.value}; {_SERVED}")


def fsdp_of(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """What the launch says of FSDP; None without it."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return accelerator.state.fsdp_plugin
    # accelerate knows FSDP on accelerators alone: several CPU processes are MULTI_CPU to it, whatever the launch says.
    return FullyShardedDataParallelPlugin() if _is_on(os.environ, _FSDP) else None


def own_device(accelerator: Accelerator, device: str | None) -> str:
    """Where a process computes: on the device asked for, which a single one may have given a number."""
    return str(accelerator.device) if accelerator.num_processes > 1 or device is None else device


def base_device(accelerator: Accelerator, device: str | None) -> str:
    """Where a process loads the base model: in memory if it is sharded, since a GPU may have no room for the whole."""
    is_sharded = accelerator.num_processes > 1 and fsdp_of(accelerator) is not None
    return "cpu" if is_sharded else own_device(accelerator, device)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1", "yes", "on", "y", "t")
