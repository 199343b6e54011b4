"""Which path knowledge takes in prefill and in decode, and why."""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass, field

import torch

from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.errors import refuse
from kblam_kernels.plan.cost import PATHS, PHASES, Cost, KnowledgePath, Phase, cost_of
from kblam_kernels.plan.devices import Device, device_of
from kblam_kernels.plan.workload import Workload

PLAN_VARIABLE = "KBLAM_PLAN"
# Share of the free memory that dense keys and values of all layers may take: the latents make this copy unnecessary,
# and the prompt needs the rest.
DENSE_SHARE = 0.1
# Scratch for one layer, to compute keys and values or to sum in, is freed at once, so it may take more.
SCRATCH_SHARE = 0.5
_NEEDS: dict[KnowledgePath, str] = {
    "latent": "partial sums of attention to latents",
    "dense": "keys and values of all layers",
    "materialise": "keys and values made at a time",
}
# Beyond this many new tokens a row the choice no longer changes.
MOST_TOKENS = 65536


@dataclass(frozen=True)
class Plan:
    """The paths of one knowledge base on one device; `str()` of it gives the reasoning.

    Args:
        workload, device: what it was made for.
        decode, prefill: "latent" (attention to the latents), "dense" (keys and values of every layer are kept), or
            "materialise" (those of one layer are made from the latents, used, and freed).
        crossover: the least number of new tokens a row that takes prefill's path, at least 2; with fewer a forward pass
            takes decode's. None: only one new token a row takes decode's (both are pinned).
        reasons: one line for each phase and path.
    """

    workload: Workload
    device: Device
    decode: KnowledgePath
    prefill: KnowledgePath
    crossover: int | None
    reasons: tuple[str, ...] = field(repr=False)

    def path(self, new_tokens: int) -> KnowledgePath:
        """The path of a forward pass with so many new tokens a row.

        It never depends on the number of rows: a row must get the same bits in any batch.
        """
        is_decode = new_tokens == 1 if self.crossover is None else new_tokens < self.crossover
        return self.decode if is_decode else self.prefill

    @property
    def holds_latents(self) -> bool:
        """Whether a path reads latents."""
        return {self.decode, self.prefill} != {"dense"}

    @property
    def holds_dense(self) -> bool:
        """Whether a path reads keys and values that are kept."""
        return "dense" in (self.decode, self.prefill)

    @property
    def held_bytes(self) -> int:
        """Bytes that the knowledge base takes on the device."""
        latents = self.workload.latent_bytes if self.holds_latents else 0
        return latents + (self.workload.dense_bytes if self.holds_dense else 0)

    def __str__(self) -> str:
        s, d = self.workload, self.device
        head = (
            f"plan for {s.triples:,} triples, {s.layers} layers of {s.num_heads} heads x {s.head_dim}, latents of "
            f"{s.width} x {s.latent_size} bytes, batch {s.batch}"
        )
        where = f"on {d.name}: {d.rates(s.element_size).bytes_per_second / 1e9:,.0f} GB/s, {_size(d.memory)} free"
        if self.decode == self.prefill:
            rule = f"{self.decode} for every forward pass"
        elif self.crossover is None:
            rule = f"{self.decode} for one new token a row, {self.prefill} for more"
        else:
            rule = f"{self.decode} below {self.crossover:,} new tokens a row, {self.prefill} from there on"
        reasons = (f"  {line}" for line in self.reasons)
        return "\n".join([head, f"{where} ({d.source})", *reasons, f"{rule}; holds {_size(self.held_bytes)}"])


def plan(workload: Workload, device: Device | torch.device | str, *, pin: str = AUTO) -> Plan:
    """Chooses the path of each phase from the cost model (`cost.py`) and the free memory.

    Args:
        workload: sizes.
        device: a `Device`, a torch device (a CPU, or a GPU that no table knows, is measured once, briefly), or a name:
            "cpu", "cuda", "a100", "h100", "h200".
        pin: "auto", a path for both phases ("materialise": for prefill; decode then reads the latents), or
            "decode=latent,prefill=dense". "auto" leaves it to the environment variable KBLAM_PLAN.

    Raises:
        UnsupportedInputError: if a pin is not known, or asks for what the adapter or the memory does not allow.
    """
    if not isinstance(device, Device):
        device = device_of(device)
    pins = check_pin(pin)
    for phase, path in pins.items():
        cost = cost_of(path, workload, device, _queries(phase, workload))
        if reason := _refusal(path, workload, pinned=True) or _lack(path, cost, device, pinned=True):
            refuse(f"{path!r} is pinned for {phase} and cannot be: {reason}")
    reasons: list[str] = []
    decode = _choose("decode", workload, device, pins, reasons)
    prefill = _choose("prefill", workload, device, pins, reasons)
    pinned = len(pins) == len(PHASES)
    crossover = None if pinned or decode == prefill else _crossover(workload, device, decode, prefill)
    return Plan(workload, device, decode, prefill, crossover, tuple(reasons))


def check_pin(pin: str) -> dict[Phase, KnowledgePath]:
    """Reads a pin: the path of each pinned phase. Whether it is possible depends on the knowledge.

    Raises:
        UnsupportedInputError: if the pin cannot be read.
    """
    source = "pin"
    if not isinstance(pin, str):
        refuse(f"pin must be a text, such as 'latent'; got {pin!r}")
    if pin == AUTO:
        source, pin = PLAN_VARIABLE, os.environ.get(PLAN_VARIABLE) or AUTO
    if pin == AUTO:
        return {}
    pins: dict[Phase, KnowledgePath] = {}
    for part in pin.split(","):
        name, _, given = part.rpartition("=")
        phases = [phase for phase in PHASES if name.strip() in ("", phase)]
        paths = [path for path in PATHS if path == given.strip()]
        if not phases or not paths:
            refuse(
                f"{source}={pin!r} is not understood; give auto, {', '.join(PATHS)}, or "
                "'decode=PATH,prefill=PATH' with one of these"
            )
        for phase in phases:
            # Materialising for a single token never pays off, so decode reads the latents.
            alone = phase == "decode" and paths[0] == "materialise" and not name
            pins[phase] = "latent" if alone else paths[0]
    return pins


def _queries(phase: Phase, workload: Workload) -> int:
    """New tokens of a forward pass, of all rows of the batch together."""
    return workload.batch * (workload.prefill_tokens if phase == "prefill" else 1)


def _refusal(path: KnowledgePath, workload: Workload, *, pinned: bool = False) -> str | None:
    """Why a path cannot be taken, memory aside; None if it can."""
    if path != "dense" and not workload.absorbable:
        return (
            "the adapter's projectors do not both end in a linear layer that is its weight alone (the identity, LoRA, "
            "a hook, a parametrization), so it has no latents"
        )
    if path == "dense" and not pinned and workload.latent_size < 2:
        return "latents are quantised to save memory; dense keys and values would take it back"
    return None


def _lack(path: KnowledgePath, cost: Cost, device: Device, *, pinned: bool = False) -> str | None:
    """Which memory a path lacks, or None. A pinned path may take all free memory."""
    share = 1.0 if pinned else DENSE_SHARE if path == "dense" else SCRATCH_SHARE
    if cost.memory <= share * device.memory:
        return None
    part = "" if share == 1 else f", of which they may take {share:.0%}"
    return f"{_NEEDS[path]} are {_size(cost.memory)}, and {_size(device.memory)} are free{part}"


def _choose(
    phase: Phase, workload: Workload, device: Device, pins: dict[Phase, KnowledgePath], reasons: list[str]
) -> KnowledgePath:
    """The quickest possible path of a phase; adds a line of reasons for each path."""
    queries = _queries(phase, workload)
    # Making keys and values for one token and throwing them away is never worth it.
    paths = PATHS if phase == "prefill" else tuple(path for path in PATHS if path != "materialise")
    allowed: dict[KnowledgePath, Cost] = {}
    fitting: dict[KnowledgePath, Cost] = {}
    lines = []
    for path in paths:
        cost = cost_of(path, workload, device, queries)
        reason = _refusal(path, workload)
        if reason is None:
            allowed[path] = cost
            # An adapter without latents has only the dense path, so a lack of memory is left to the allocator.
            reason = _lack(path, cost, device) if workload.absorbable else None
        if reason is None:
            fitting[path] = cost
        figures = f"{cost.seconds * 1e3:.3f} ms a layer, {_size(cost.bytes)}, {cost.operations / 1e9:.1f} GFLOP"
        lines.append(f"  {path:<11} {figures if reason is None else 'not possible: ' + reason}")
    note = ""
    if phase in pins:
        chosen, note = pins[phase], " (pinned)"
    elif fitting:
        chosen = min(fitting, key=lambda path: fitting[path].seconds)
    else:
        chosen, note = min(allowed, key=lambda path: allowed[path].memory), " (none fits; it needs the least memory)"
    tokens = "1 new token" if queries == 1 else f"{queries:,} new tokens"
    reasons.append(f"{phase}, {tokens}: {chosen}{note}")
    reasons.extend(lines)
    return chosen


def _crossover(workload: Workload, device: Device, decode: KnowledgePath, prefill: KnowledgePath) -> int:
    """The least number of new tokens a row, of `workload.batch` rows, from which prefill's path is quicker; by halving.

    At least 2: one new token is decode.
    """

    def prefill_wins(new_tokens: int) -> bool:
        costs = [cost_of(path, workload, device, workload.batch * new_tokens).seconds for path in (prefill, decode)]
        return costs[0] < costs[1]

    return 2 + bisect.bisect_left(range(2, MOST_TOKENS), True, key=prefill_wins)


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
