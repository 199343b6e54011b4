"""The C++ kernels under the sanitizers: `make sanitize`. Needs a compiler and its sanitizer libraries; no torch in it.

AddressSanitizer and UndefinedBehaviorSanitizer in one run, ThreadSanitizer in another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kblam_kernels.common import build

DRIVERS = tuple(Path(__file__).with_name(name) for name in ("sanitize.cpp", "sanitize_latent.cpp"))
SANITIZERS = ("address,undefined", "thread")


def run(sanitizer: str, folder: Path) -> bool:
    """Builds the drivers and the kernels under one sanitizer and runs them; whether nothing was reported."""
    flags = [
        build.LANGUAGE,
        "-O2",
        "-g",
        "-Wno-maybe-uninitialized",
        f"-fsanitize={sanitizer}",
        "-fno-omit-frame-pointer",
    ]
    flags += ["-fno-sanitize-recover=all", f"-I{build.source_folder()}"]
    units = [*build.kernel_units(build.source_folder()), *(build.Unit(driver, ()) for driver in DRIVERS)]
    cxx, objects = build.compiler(), [str(folder / unit.object) for unit in units]

    def compile_one(unit: build.Unit, target: str) -> None:
        subprocess.run([*cxx, *flags, *unit.flags, "-c", str(unit.source), "-o", target], check=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, units, objects))
    program = str(folder / "driver")
    subprocess.run([*cxx, *flags, *objects, "-lpthread", "-o", program], check=True)
    built = time.perf_counter() - start
    status = subprocess.run([program]).returncode
    outcome = "clean" if status == 0 else f"status {status}"
    sys.stdout.write(f"{sanitizer}: {outcome} (built in {built:.0f} s)\n")
    return status == 0


def main() -> int:
    """Every sanitizer; 1 if any found something."""
    clean = True
    for sanitizer in SANITIZERS:
        with tempfile.TemporaryDirectory() as folder:
            clean = run(sanitizer, Path(folder)) and clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
