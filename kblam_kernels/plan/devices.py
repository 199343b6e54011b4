"""How fast a device reads and multiplies, and how much it can hold: from public specifications, or measured."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace

import torch

from kblam_kernels.common.main_memory import available_memory
from kblam_kernels.errors import refuse
from kblam_kernels.plan import calibration
from kblam_kernels.plan.remembered import Both, Rates, remembered

# Share of the specified matrix rate that a fused attention kernel usually reaches at most.
SPECIFIED_SHARE = 0.5


@dataclass(frozen=True)
class Device:
    """A device as the planner sees it.

    Args:
        name: as shown in a plan.
        half, single: rates for 16-bit types and for float32.
        memory: bytes free for knowledge, without what everything else on the device takes.
        source: where the rates come from.
        has_scratch: whether attention to latents writes partial sums to memory: on a GPU it does, on a CPU it does not.
    """

    name: str
    half: Rates
    single: Rates
    memory: int
    source: str
    has_scratch: bool = False

    def rates(self, element_size: int) -> Rates:
        """The rates for a model whose numbers have this many bytes."""
        return self.half if element_size <= 2 else self.single

    def with_memory(self, memory: int) -> Device:
        """The same device with another amount of free memory."""
        return replace(self, memory=memory)


def _specified(name: str, gigabytes: int, terabytes_per_second: float, half: float, single: float) -> Device:
    def rates(teraflops: float) -> Rates:
        reached = SPECIFIED_SHARE * teraflops * 1e12
        return Rates(terabytes_per_second * 1e12, reached, reached, 1.5 * reached)

    source = f"public specification, attention at {SPECIFIED_SHARE:.0%} of the matrix rate; not measured"
    return Device(name, rates(half), rates(single), gigabytes * 10**9, source, has_scratch=True)


# Datasheets of the SXM modules, by the full name that their driver reports: memory in GB, TB/s, dense TFLOP/s in
# bfloat16 and in float32. Other cards of a family (PCIe and NVL cards, 40 GB, GH200, a MIG slice) have other memory or
# clocks, so they are measured.
SPECIFIED: dict[str, Device] = {
    "a100": _specified("NVIDIA A100-SXM4-80GB", 80, 2.039, 312, 19.5),
    "h100": _specified("NVIDIA H100 80GB HBM3", 80, 3.35, 989, 67),
    "h200": _specified("NVIDIA H200", 141, 4.8, 989, 67),
}

# Typical rates (two cores of an EPYC), for knowledge so small that measuring would take longer than any choice saves.
TYPICAL = Device(
    "a CPU",
    half=Rates(4e10, latent=3e11, dense=3e11, projection=1e11, latent_bytes=1.3e10),
    single=Rates(4e10, latent=2.5e11, dense=1.3e11, projection=1e11, latent_bytes=2e10),
    memory=0,
    source="typical rates: too little knowledge to measure for",
)


def device_of(device: torch.device | str, *, measure: bool = True, anew: bool = False) -> Device:
    """The planner's view of a torch device, with the memory that is free on it now, or a card of the table by its name.

    A GPU of the table has its rates; the CPU and any other GPU are measured once on this machine, in about a second,
    and a file keeps the rates (`remembered.py`). `anew` measures what is here again, a GPU of the table too. Without
    `measure` a CPU has the rates of `TYPICAL`.

    Args:
        device: a torch device, or a name as the command line takes it: "cpu", "cuda" (the one here), "a100", ...

    Raises:
        UnsupportedInputError: the name is unknown, a GPU is not here, the name is of a card of the table where one is
            to be measured, or the torch device is of a kind that does not compute here, such as meta.
    """
    if isinstance(device, str):
        if device in SPECIFIED and not anew:
            return SPECIFIED[device]
        if device in SPECIFIED:
            refuse(f"{device!r} is a row of a table; to measure the device that is here, say cuda or cpu")
        if device not in ("cpu", "cuda"):
            refuse(f"device {device!r} is not one of cpu, cuda, {_names()}")
        device = torch.device(device)
    if not isinstance(device, torch.device):
        refuse(f"device must be a torch device or a name; got {type(device).__name__}")
    if device.type not in ("cpu", "cuda") and device.type != _accelerator():
        refuse(f"device '{device}' computes nothing here; plan for cpu, cuda, or a card by its name: {_names()}")
    if anew:
        _device.cache_clear()
    known = _device(device.type, device.index, anew) if measure or device.type == "cuda" else TYPICAL
    return known.with_memory(free_memory(device))


def _names() -> str:
    return ", ".join(SPECIFIED)


def _accelerator() -> str | None:
    """The kind of device that torch finds here beside the CPU."""
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


@functools.cache
def _device(kind: str, index: int | None, anew: bool) -> Device:
    device = torch.device(kind if index is None else f"{kind}:{index}")
    name = "this machine's CPU"
    if kind == "cuda":
        if not torch.cuda.is_available():
            why = "finds none" if torch.backends.cuda.is_built() else "is built without CUDA"
            refuse(f"device 'cuda' is not here: this torch {why}; say cpu, or a card by its name: {_names()}")
        if index is not None and index >= torch.cuda.device_count():
            refuse(
                f"device '{device}' is not here: torch finds {torch.cuda.device_count()} of this kind, from cuda:0 on"
            )
        name = torch.cuda.get_device_name(device)
        if not anew and (known := [row for row in SPECIFIED.values() if row.name == name]):
            return known[0]

    def measured() -> Both:
        return _measured(device, torch.bfloat16), _measured(device, torch.float32)

    (half, single), source = remembered(name, measured, on_cpu=kind == "cpu", anew=anew)
    return Device(name, half, single, 0, source, has_scratch=kind == "cuda")


def _measured(device: torch.device, dtype: torch.dtype) -> Rates:
    latent_bytes, latent = calibration.latent_rates(device, dtype)
    dense_bytes, dense = calibration.dense_rates(device, dtype)
    projection = calibration.projection_rate(device, dtype)
    return Rates(calibration.read_rate(device), latent, dense, projection, latent_bytes, dense_bytes)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated now without pushing anything out.

    On a GPU this is an upper bound: what PyTorch's allocator holds free counts whole, also where it lies in pieces.
    """
    if device.type == "cuda":
        held_free = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held_free
    if (available := available_memory()) is not None:
        return available
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError, AttributeError):  # no such names on this system
        return 8 * 10**9
