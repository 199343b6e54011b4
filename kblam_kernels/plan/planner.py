"""Which path knowledge takes in prefill and in decode, and why."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.errors import refuse
from kblam_kernels.plan.cost import PATHS, PHASES, Cost, KnowledgePath, Phase, cost_of, falls_at
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
        changes: ascending numbers of new tokens a row, at least 2, from which a forward pass takes the other of the two
            paths; below the first it takes decode's. Mostly one; attention to latents may be the quicker one again
            where its programs fold partial sums. Empty if both paths are the same.
        reasons: one line for each phase and path.
    """

    workload: Workload
    device: Device
    decode: KnowledgePath
    prefill: KnowledgePath
    changes: tuple[int, ...]
    reasons: tuple[str, ...] = field(repr=False)

    def path(self, new_tokens: int) -> KnowledgePath:
        """The path of a forward pass with so many new tokens a row.

        It never depends on the number of rows: a row must get the same bits in any batch.
        """
        # Not by bisect, which `torch.compile` cannot trace.
        passed = sum(new_tokens >= change for change in self.changes)
        return self.prefill if passed % 2 else self.decode

    @property
    def crossover(self) -> int | None:
        """The least number of new tokens a row that takes prefill's path; None if that is decode's."""
        return self.changes[0] if self.changes else None

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
            f"plan for {_many(s.triples, 'triple')}, {_many(s.layers, 'layer')} of {s.num_heads} heads x {s.head_dim}, "
            f"latents of {s.width} x {s.latent_size} bytes, batch {s.batch}"
        )
        where = f"on {d.name}: {d.rates(s.element_size).bytes_per_second / 1e9:,.0f} GB/s, {_size(d.memory)} free"
        if not self.changes:
            rule = f"{self.decode} for every forward pass"
        else:
            spans = [f"{self.path(end - 1)} below {end:,}" for end in self.changes]
            spans[0] = (
                f"{self.decode} for one new token a row" if self.changes[0] == 2 else f"{spans[0]} new tokens a row"
            )
            rest = "for more" if self.changes == (2,) else "from there on"
            rule = f"{', '.join(spans)}, {self.path(self.changes[-1])} {rest}"
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
        UnsupportedInputError: if a pin is not known, or asks for what the adapter or the memory does not allow; as
            `device_of`; and if `workload` is no `Workload`.
    """
    if not isinstance(workload, Workload):
        refuse(f"workload must be a Workload (kblam_kernels.plan); got {type(workload).__name__}")
    if not isinstance(device, Device):
        device = device_of(device)
    pins = check_pin(pin)
    for phase, path in pins.items():
        look = _look(path, workload, device, _queries(phase, workload), pinned=True)
        if reason := look.refusal or look.lack:
            refuse(f"{path!r} is pinned for {phase} and cannot be: {reason}")
    reasons: list[str] = []
    decode = _choose("decode", workload, device, pins, reasons)
    prefill = _choose("prefill", workload, device, pins, reasons)
    changes = () if decode == prefill else _changes(workload, device, decode, prefill, pins)
    return Plan(workload, device, decode, prefill, changes, tuple(reasons))


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
    if path == "dense" and not pinned and workload.absorbable and workload.latent_size < 2:
        return "latents are quantised to save memory; dense keys and values would take it back"
    return None


def _lack(path: KnowledgePath, cost: Cost, device: Device, *, pinned: bool = False) -> str | None:
    """Which memory a path lacks, or None. A pinned path may take all free memory."""
    share = 1.0 if pinned else DENSE_SHARE if path == "dense" else SCRATCH_SHARE
    if cost.memory <= share * device.memory:
        return None
    part = "" if share == 1 else f", of which they may take {share:.0%}"
    return f"{_NEEDS[path]} are {_size(cost.memory)}, and {_size(device.memory)} are free{part}"


@dataclass(frozen=True)
class _Look:
    """A path for a number of queries: its cost, and why it cannot be taken, memory aside and for lack of it."""

    cost: Cost
    refusal: str | None
    lack: str | None

    @property
    def rank(self) -> tuple[int, float]:
        """The least is taken: the quickest that fits; where none fits, the one that needs the least memory."""
        if self.refusal is not None:
            return 2, 0.0
        return (0, self.cost.seconds) if self.lack is None else (1, self.cost.memory)


def _look(path: KnowledgePath, workload: Workload, device: Device, queries: int, *, pinned: bool = False) -> _Look:
    cost = cost_of(path, workload, device, queries)
    # An adapter without latents has only the dense path, so a lack of memory is left to the allocator.
    lack = _lack(path, cost, device, pinned=pinned) if workload.absorbable or pinned else None
    return _Look(cost, _refusal(path, workload, pinned=pinned), lack)


def _choose(
    phase: Phase, workload: Workload, device: Device, pins: dict[Phase, KnowledgePath], reasons: list[str]
) -> KnowledgePath:
    """The quickest possible path of a phase; adds a line of reasons for each path."""
    queries = _queries(phase, workload)
    # Making keys and values for one token and throwing them away is never worth it.
    is_one = phase == "decode" or workload.prefill_tokens == 1
    looks = {path: _look(path, workload, device, queries) for path in PATHS if not (is_one and path == "materialise")}
    lines = []
    for path, look in looks.items():
        cost, reason = look.cost, look.refusal or look.lack
        figures = f"{cost.seconds * 1e3:.3f} ms a layer, {_size(cost.bytes)}, {cost.operations / 1e9:.1f} GFLOP"
        lines.append(f"  {path:<11} {figures if reason is None else 'not possible: ' + reason}")
    chosen, note = min(looks, key=lambda path: looks[path].rank), ""
    if phase in pins:
        chosen, note = pins[phase], " (pinned)"
    elif looks[chosen].lack is not None:
        note = " (none fits; it needs the least memory)"
    tokens = _many(queries, "new token")
    reasons.append(f"{phase}, {tokens}: {chosen}{note}")
    reasons.extend(lines)
    return chosen


def _changes(
    workload: Workload,
    device: Device,
    decode: KnowledgePath,
    prefill: KnowledgePath,
    pins: dict[Phase, KnowledgePath],
) -> tuple[int, ...]:
    """Where the better of two paths changes, in new tokens a row; one new token is decode.

    Each length is ranked as `_choose` ranks a phase, so the plan's own prompt takes prefill's path. A pin may say
    otherwise than the ranks: then every prompt goes by its phase.
    """
    first, second = (path for path in PATHS if path in (decode, prefill))
    pinned = pins.values()

    @functools.cache
    def ranks(new_tokens: int) -> tuple[tuple[int, float], tuple[int, float]]:
        of_first, of_second = (
            _look(path, workload, device, workload.batch * new_tokens, pinned=path in pinned).rank
            for path in (first, second)
        )
        return of_first, of_second

    def better(least: int, most: int) -> Iterator[tuple[int, KnowledgePath]]:
        """(from so many new tokens, the better path), of a span in which no rank falls: its ends tell, or halves."""
        if least > most:
            return
        low, high = ranks(least), ranks(most)
        if high[0] <= low[1]:
            yield least, first
        elif high[1] < low[0]:
            yield least, second
        else:
            middle = (least + most) // 2
            yield from better(least, middle)
            yield from better(middle + 1, most)

    most = max(MOST_TOKENS, workload.prefill_tokens)
    fall = -(-falls_at(workload, device, workload.batch * most) // workload.batch)
    changes: list[int] = []
    if len(pins) < len(PHASES):
        before = decode
        for start, path in itertools.chain(better(2, fall - 1), better(max(fall, 2), most)):
            if path != before:
                changes.append(start)
            before = path
    odd = bisect.bisect_right(changes, workload.prefill_tokens) % 2
    return tuple(changes) if odd else (2,)


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one if count == 1 else one + 's'}"
