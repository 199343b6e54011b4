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

from benchmarks import ceilings, gpu_model, measured, shapes, subjects
from benchmarks.gpu_model import Case, Models, Settings
from benchmarks.measured import FAILED, INPUTS, TOO_LARGE, Row, Run
from benchmarks.problems import problem_of
from benchmarks.report import RESULTS, Report, environment, summary
from kblam_kernels import BackendUnavailableError, KernelError

# Before the next part would pass eight minutes, if it is like those before it.
QUICK_SECONDS = 420.0


class DeviceLostError(Exception):
    """Every further call fails: a kernel read or wrote where it must not."""


def parts(*, quick: bool, tiny: bool) -> Iterator[shapes.Shape | Case]:
    """What is measured, in order: decode, whole models, the rest."""
    of_attention = list(shapes.tiny() if tiny else shapes.quick() if quick else shapes.registry())
    first = [shape for shape in of_attention if shape.phase == "decode" and shape.model is of_attention[0].model]
    yield from first
    yield from gpu_model.TINY if tiny else gpu_model.QUICK if quick else gpu_model.FULL
    yield from (shape for shape in of_attention if shape not in first)


def rows(shape: shapes.Shape, run: Run, report: Report) -> Iterator[Row]:
    """Gates, then times, every implementation on one shape that the report does not have yet."""
    if all(report.has(shape.name, name) for name in subjects.names(shape.phase, quick=run.quick)):
        return
    # Peers are compiled for each shape; without this the compiler gives up after a few.
    torch.compiler.reset()
    try:
        x = problem_of(shape, run.device, run.dtype)
        measurable = list(subjects.subjects(shape, x, quick=run.quick))
    except torch.OutOfMemoryError as problem:
        yield Row(shape.name, shape.phase, INPUTS, None, TOO_LARGE, measured.first_line(problem))
        return
    except Exception as problem:
        yield Row(shape.name, shape.phase, INPUTS, None, FAILED, measured.described(problem))
        return
    for subject in measurable:
        if not report.has(shape.name, subject.name):
            yield from measured.rows_of(subject, x, shape, run)
            if run.on_gpu:
                torch.cuda.empty_cache()


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
        for row in rows(shape, self.run, self.report):
            self.report.rows.append(row)
            self.report.write()
            print("  " + measured.line_of(row), flush=True)
            self._check_device(row.status)
        for line in summary([row for row in self.report.rows if row.shape == shape.name]):
            print(f"  {line}", flush=True)

    def _measure_model(self, case: Case) -> None:
        if any(model["shape"] == case.name for model in self.report.models):
            return
        row = gpu_model.measure(case, self._models, self.settings)
        self.report.models.append(dataclasses.asdict(row))
        self.report.write()
        print("  " + gpu_model.line_of(row), flush=True)
        self._check_device(row.status)

    def _check_device(self, status: str) -> None:
        if status != measured.MEASURED and is_lost(self.run.device):
            raise DeviceLostError


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few shapes, the most telling first, and no slow peers")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no part that would end later, and say which")
    parser.add_argument("--match", default="", help='only parts whose name contains this, such as "decode" or "model"')
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", default="attention.json", help="of the file, where a run measures a part")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has, measure the others")
    parser.add_argument("--compile", action="store_true", help="whole models with torch.compile")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes: to test this command")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    kind = torch.device(options.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("no CUDA device here; `--device cpu --tiny` only tests this command")
    if kind == "cpu" and not options.tiny:
        raise BackendUnavailableError("the shapes are for a GPU; on a CPU use `--device cpu --tiny`")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _options(arguments)
    dtype = torch.float32 if options.tiny else torch.bfloat16
    try:
        _check(options)
        report = Report(options.results, options.name, environment(options.device, dtype))
        if options.resume:
            report.resume()
    except KernelError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    limits = ceilings.of(options.device, dtype, tiny=options.tiny)
    print(limits, flush=True)
    report.ceilings = limits.as_json
    run = Run(options.device, dtype, limits, options.quick, budget=0.25 if options.quick else 0.5)
    small = {"context": 32, "repeats": 2} if options.tiny else {}
    settings = Settings(options.device, compiled=options.compile, **small)
    seconds = options.seconds if options.seconds is not None else QUICK_SECONDS if options.quick else None
    chosen = [part for part in parts(quick=options.quick, tiny=options.tiny) if options.match in part.name]
    bench = Bench(run, settings, report, seconds)
    try:
        bench.over(chosen)
    except DeviceLostError:
        print("the device is lost to this process; the rest is measured by another one", file=sys.stderr, flush=True)
        _again(sys.argv[1:] if arguments is None else arguments, bench.left)
    for name in report.left_out:
        print(f"left out, for want of time: {name}")
    for name in report.failed:
        print(f"failed: {name}", file=sys.stderr)
    print(f"\n{report.file}")
    return 1 if report.failed else 0


def _again(arguments: Sequence[str], left: float | None) -> NoReturn:
    """The same command over what has no row yet; the row that lost the device has one.

    In place of this process, which would keep the device's memory.
    """
    limit = [] if left is None else ["--seconds", f"{max(0.0, left):.0f}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_bench", *arguments, "--resume", *limit])


if __name__ == "__main__":
    sys.exit(main())
