"""Rates that were measured once on a machine, in a file: plans then do not depend on what else ran at the time.

The file lies in the cache of the C++ kernels, one for each machine, version and setting. It is believed only if it is
this user's or root's, no link, and holds what it should; else rates are measured again. Remove it to do so on purpose,
or run `python -m kblam_kernels.plan --measure`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kblam_kernels.common.build import cache_root, is_ours
from kblam_kernels.common.dispatch import BACKEND_VARIABLE
from kblam_kernels.errors import BuildError

logger = logging.getLogger("kblam_kernels")

# Of what is measured: another one makes earlier files void.
# Files of 1 and 2 may have rates of nothing, for a GPU that was not the first one used; those of 3 a wrong rate of
# reading, of numbers in torch's default dtype; those of 4 rates of whatever else ran.
_VERSION = 5
_MOST_BYTES = 2**16


@dataclass(frozen=True)
class Rates:
    """The rates of one device for one dtype.

    Args:
        bytes_per_second: read from memory.
        latent, dense, projection: operations a second of attention to latents, of attention to dense keys and values,
            and of the matrix product that makes these from latents.
        latent_bytes, dense_bytes: bytes a second that the two kernels read with one query; never more than
            `bytes_per_second`.
    """

    bytes_per_second: float
    latent: float
    dense: float
    projection: float
    latent_bytes: float = math.inf
    dense_bytes: float = math.inf

    def __post_init__(self) -> None:
        for name in ("latent_bytes", "dense_bytes"):
            object.__setattr__(self, name, min(getattr(self, name), self.bytes_per_second))


Both = tuple[Rates, Rates]
"""For 16-bit types, and for float32."""


def remembered(name: str, measure: Callable[[], Both], *, on_cpu: bool, anew: bool = False) -> tuple[Both, str]:
    """The rates of a device of this machine, and where they come from, as a plan says it.

    Args:
        name: of the device.
        measure: takes about a second.
        on_cpu: whether the C++ kernels serve it.
        anew: measure even if a file has them, and write it again.
    """
    key = _key(name, on_cpu)
    rates = None
    try:
        file = cache_root() / f"rates-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
        rates = None if anew else _read(file, key)
        if rates is None:
            rates = measure()
            parts = {part: dataclasses.asdict(of_type) for part, of_type in zip(_PARTS, rates, strict=True)}
            _write(file, {"key": key, **parts})
    except (BuildError, OSError) as error:
        logger.debug("rates of this machine are not kept: %s", error)
        return rates or measure(), "measured in this process"
    return rates, f"measured once on this machine, see {file}"


_PARTS = ("half", "single")


def _key(name: str, on_cpu: bool) -> dict[str, str]:
    """What rates depend on."""
    from kblam_kernels.common import native  # brings the compiler of torch along

    kernels = "" if not on_cpu else "none" if native.unavailable() else native.instruction_set()
    return {
        "version": str(_VERSION),
        "device": name,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "kernels": kernels,
        "backend": os.environ.get(BACKEND_VARIABLE, ""),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(file: Path, key: Mapping[str, str]) -> Both | None:
    """The rates in a file; None if there is none to believe."""
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode) or not is_ours(found) or found.st_size > _MOST_BYTES:
            return None
        data = json.loads(file.read_text(encoding="utf-8"))  # noqa: TID251 - a file of our own, below kblam
        if data["key"] != key:
            return None
        half, single = (Rates(**data[part]) for part in _PARTS)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    numbers = [number for rates in (half, single) for number in dataclasses.astuple(rates)]
    if not all(type(number) is float and 0 < number < math.inf for number in numbers):
        return None
    return half, single


def _write(file: Path, data: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=file.name) as scratch:
        fresh = Path(scratch) / file.name
        fresh.write_text(json.dumps(data, indent=1), encoding="utf-8")
        fresh.replace(file)
