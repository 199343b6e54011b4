"""Peers side by side with the ceilings of the same run: `python -m benchmarks.gpu_bench`.

Every implementation is held against float64 before it is timed; one that fails gets no speed number, and its row says
so. Rows go to RESULTS/<device>/attention.json, the cases we lose among them, and the file is written after each row:
a run cut short leaves what it measured, and --resume continues it. Whole models follow after decode.

--quick takes at most eight minutes. `--device cpu --tiny` walks the same code in seconds with toy shapes; its figures
mean nothing.

exit status: 0; 1 if a result of ours is wrong or raised; 2 if nothing can be measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from kblam.bench import ceilings, measured, shapes, whole_model
from kblam.bench.environment import check_is_here, environment
from kblam.bench.measured import Run
from kblam.bench.report import MODEL, Report, check_target, file_of, summary
from kblam.bench.rows import MEASURED, line_of
from kblam.bench.whole_model import Case, Models, Settings
from kblam.errors import BenchmarkError
from kblam_kernels import BackendUnavailableError

RESULTS = Path(__file__).parent / "results"
# Before the next part would pass eight minutes, if it is like those before it.
QUICK_SECONDS = 420.0


class DeviceLostError(Exception):
    """Every further call fails: a kernel read or wrote where it must not.

    Args:
        shape, implementation: whose row was the last; of a whole model `MODEL`.
    """

    def __init__(self, shape: str, implementation: str) -> None:
        super().__init__(shape, implementation)
        self.row = shape, implementation


def parts(*, quick: bool, tiny: bool) -> Iterator[shapes.Shape | Case]:
    """What is measured, in order: decode, whole models, the rest."""
    of_attention = list(shapes.tiny() if tiny else shapes.gpu_quick() if quick else shapes.gpu_all())
    first = [shape for shape in of_attention if shape.phase == "decode" and shape.model is of_attention[0].model]
    yield from first
    yield from whole_model.TOYS if tiny else whole_model.QUICK if quick else whole_model.FULL
    yield from (shape for shape in of_attention if shape not in first)


def is_lost(device: str) -> bool:
    """Whether the device answers nothing any more."""
    if torch.device(device).type != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


class Bench:
    """One run over the parts.

    Args:
        run, settings: how attention and models are measured.
        report: where rows go.
        seconds: no part is begun that would probably end later; None is no limit.
    """

    def __init__(self, run: Run, settings: Settings, report: Report, seconds: float | None) -> None:
        self.run, self.settings, self.report = run, settings, report
        self._models = Models(run.device)
        self._began, self._seconds = time.monotonic(), seconds
        self._took: list[float] = []

    @property
    def left(self) -> float | None:
        """Seconds of the budget that are left."""
        return None if self._seconds is None else self._seconds - (time.monotonic() - self._began)

    def over(self, chosen: Sequence[shapes.Shape | Case]) -> None:
        """Measures the parts, and writes after each row.

        Raises:
            DeviceLostError: the device answers nothing any more; the rows so far are written.
        """
        for number, part in enumerate(chosen):
            if self.left is not None and self.left < (statistics.mean(self._took) if self._took else 0):
                self.report.left_out = [left.name for left in chosen[number:]]
                break
            print(f"\n{part.name}", flush=True)
            began = time.monotonic()
            if isinstance(part, Case):
                self._measure_model(part)
            else:
                self._models.free()
                self._measure_shape(part)
            self._took.append(time.monotonic() - began)
        self.report.write()

    def _measure_shape(self, shape: shapes.Shape) -> None:
        def has(name: str) -> bool:
            return self.report.has(shape.name, name, measured.levels(shape, name, self.run))

        for row in measured.rows(shape, self.run, has):
            self.report.add(row)
            self.report.write()
            print("  " + line_of(row), flush=True)
            self._check_device(row.status, shape.name, row.implementation)
        for line in summary([row for row in self.report.rows if row.shape == shape.name]):
            print(f"  {line}", flush=True)

    def _measure_model(self, case: Case) -> None:
        if self.report.has_model(case.name):
            return
        row = whole_model.measure(case, self._models, self.settings)
        self.report.add_model(dataclasses.asdict(row))
        self.report.write()
        print("  " + whole_model.line_of(row), flush=True)
        self._check_device(row.status, case.name, MODEL)

    def _check_device(self, status: str, shape: str, implementation: str) -> None:
        if status != MEASURED and is_lost(self.run.device):
            raise DeviceLostError(shape, implementation)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few shapes, the most telling first, and no slow peers")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no part that would end later, and say which")
    parser.add_argument("--match", default="", help='only parts whose name contains this, such as "decode" or "model"')
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", default="attention.json", help="of the file, where a run measures a part")
    parser.add_argument("--resume", action="store_true", help="measure what the file lacks, failed or did not fit")
    # Of this very run, by the process before this one: tried again, they would lose the device again.
    parser.add_argument("--lost", nargs=2, action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help="whole models with torch.compile")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes: to test this command")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendUnavailableError("no CUDA device here; `--device cpu --tiny` only tests this command")
    check_is_here(options.device)
    if torch.device(options.device).type == "cpu" and not options.tiny:
        raise BackendUnavailableError("the shapes are for a GPU; on a CPU use `--device cpu --tiny`")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _options(arguments)
    every = list(parts(quick=options.quick, tiny=options.tiny))
    chosen = [part for part in every if options.match in part.name]
    dtype = torch.float32 if options.tiny else torch.bfloat16
    try:
        _check(options)
        if not chosen:
            raise BenchmarkError(
                f"--match: {options.match!r} is in no name of the {len(every)} parts, such as {every[0].name!r}"
            )
        small = {"context": 32, "repeats": 2} if options.tiny else {}
        settings = Settings(options.device, compiled=options.compile, **small)
        about = environment(options.device, dtype)
        about |= {"quick": options.quick, "compiled": settings.compiled, "context": settings.context}
        report = Report(file_of(options.results, about["device"], options.name), about)
        check_target(report.file, "--results")
        report.lost = {(shape, implementation) for shape, implementation in options.lost}
        if options.resume:
            report.resume()
        kept = ceilings.Ceilings.from_json(report.ceilings, report.file) if report.ceilings else None
    except (BackendUnavailableError, BenchmarkError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    limits = kept or ceilings.of(options.device, dtype, tiny=options.tiny)
    print(limits, flush=True)
    report.ceilings = limits.as_json
    # A toy run should not wait for a compiler.
    run = Run(*(options.device, dtype, limits), options.quick, not options.tiny, budget=0.25 if options.quick else 0.5)
    seconds = options.seconds if options.seconds is not None else QUICK_SECONDS if options.quick else None
    bench = Bench(run, settings, report, seconds)
    try:
        bench.over(chosen)
    except DeviceLostError as lost:
        print("the device is lost to this process; the rest is measured by another one", file=sys.stderr, flush=True)
        _again(sys.argv[1:] if arguments is None else arguments, bench.left, lost.row)
    for name in report.left_out:
        print(f"left out, for want of time: {name}")
    for name in report.failed:
        print(f"failed: {name}", file=sys.stderr)
    print(f"\n{report.file}")
    return 1 if report.failed else 0


def _again(arguments: Sequence[str], left: float | None, lost: tuple[str, str]) -> NoReturn:
    """The same command over what is not measured yet, but for the row that lost the device.

    In place of this process, which would keep the device's memory.
    """
    limit = [] if left is None else ["--seconds", f"{max(0.0, left):.0f}"]
    sys.stdout.flush()
    os.execv(
        sys.executable, [sys.executable, "-m", "benchmarks.gpu_bench", *arguments, "--lost", *lost, "--resume", *limit]
    )


if __name__ == "__main__":
    sys.exit(main())
