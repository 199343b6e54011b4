"""The results of a run: written after every row, whole or not at all; continued where a run stopped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kblam import strict_json
from kblam.bench.output import write_json
from kblam.bench.rows import FAILED, INPUTS, MEASURED, REFUSED, Row, row_from, with_ratios, with_shares
from kblam.errors import BenchmarkError
from kblam.knowledge.schema import is_knowledge_base
from kblam.whole import why_not

FORMAT = "kblam bench 2"  # 1 were lists of rows without an environment
MODEL = "whole model"  # in place of an implementation
# A report of another device, source or way to measure is not continued.
SAME = ("device", "dtype", "commit", "changes", "torch", "triton", "quick", "compiled", "context")


class Report:
    """Rows of a run, in a file that is right after each of them.

    Args:
        file: that is written; None for none.
        about: from `environment`.

    Attributes:
        lost: (shape, implementation) that lost the device to this run: they are not tried again.
    """

    def __init__(self, file: Path | None, about: dict[str, Any]) -> None:
        self.file = file
        self.about = about
        self.ceilings: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.models: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.lost: set[tuple[str, str]] = set()

    def resume(self) -> None:
        """Takes in what the file has.

        Raises:
            BenchmarkError: if it cannot be read, or is of another device, dtype, commit, version or setting.
        """
        if self.file is None or not self.file.exists():
            return
        stored = read(self.file)
        for name in SAME:
            before, now = stored.about.get(name), self.about.get(name)
            if before != now:
                if name == "changes":
                    raise BenchmarkError(
                        f"{self.file} was measured with other changes to commit {self.about['commit']!r} (digest "
                        f"{before!r}, this run {now!r}); commit them, and choose another --name or leave --resume out"
                    )
                raise BenchmarkError(
                    f"{self.file} has {name} {before!r}, this run {now!r}; choose another --name, or leave --resume out"
                )
        self.rows, self.models = stored.rows, stored.models
        # Shares of rows that are kept are of these.
        self.ceilings = stored.ceilings

    def has(self, shape: str, implementation: str, levels: Sequence[str] = ("cold",)) -> bool:
        """Whether nothing is left to measure.

        What failed or did not fit is tried again: code, memory or a neighbour on the device may have been the cause.

        Args:
            shape, implementation: by name.
            levels: the rows that it should have, "cold" or "warm".
        """
        if self.lost & {(shape, implementation), (shape, INPUTS)}:
            return True
        rows = [row for row in self.rows if (row.shape, row.implementation) == (shape, implementation)]
        if any(row.status == REFUSED and row.l2 == "cold" for row in rows):
            return True
        return set(levels) <= {row.l2 for row in rows if row.status in (MEASURED, REFUSED)}

    def add(self, row: Row) -> None:
        """A new row, in place of those that it replaces: a cold one comes first and begins its implementation anew."""

        def stays(old: Row) -> bool:
            if old.shape != row.shape or old.implementation not in (row.implementation, INPUTS):
                return True
            return old.implementation != INPUTS and row.l2 == "warm" and old.l2 == "cold"

        self.rows = [old for old in self.rows if stays(old)] + [row]

    def has_model(self, shape: str) -> bool:
        """The same of a whole model."""
        done = any(model["shape"] == shape and model["status"] == MEASURED for model in self.models)
        return done or (shape, MODEL) in self.lost

    def add_model(self, model: dict[str, Any]) -> None:
        """A whole model's row, in place of one that failed."""
        self.models = [old for old in self.models if old["shape"] != model["shape"]] + [model]

    @property
    def failed(self) -> list[str]:
        """Our own rows that failed."""
        found = [f"{row.implementation}, {row.shape}" for row in self.rows if row.is_ours and row.status == FAILED]
        return found + [
            f"{model['model']}, {model['triples']:,} triples" for model in self.models if model["status"] == FAILED
        ]

    def compare_rows(self) -> None:
        """Gives the rows so far what follows from others."""
        self.rows = with_shares(with_ratios(self.rows))

    def write(self) -> None:
        """All of it so far."""
        self.compare_rows()
        if self.file is None:
            return
        content = {
            "format": FORMAT,
            "environment": self.about,
            "ceilings": self.ceilings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "models": self.models,
            "left_out": self.left_out,
        }
        write_json(content, self.file)


def file_of(folder: Path, device: str, name: str) -> Path:
    """Of a device in the folder of the results of all devices."""
    return folder / re.sub(r"[^A-Za-z0-9.-]+", "-", device) / name


def check_target(file: Path | None, option: str) -> None:
    """Raises BenchmarkError if a file could not be written there, before anything is measured."""
    if file is None:
        return
    if (reason := why_not(file)) is not None:
        raise BenchmarkError(f"{option}: {reason}")
    if is_knowledge_base(file):
        raise BenchmarkError(f"{option}: {file} is a knowledge base, which it would replace; name another file")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a result file says."""

    about: dict[str, Any]
    rows: list[Row]
    models: list[dict[str, Any]]
    ceilings: dict[str, Any]


def read(file: Path) -> Stored:
    """A result file.

    Raises:
        BenchmarkError: if it is not there, cannot be read, or has another format; the message says which.
    """
    try:
        stored = strict_json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BenchmarkError(f"cannot read {file}: {problem.strerror or problem}") from problem
    except (ValueError, RecursionError) as problem:
        raise BenchmarkError(f"{file} is no result file of kblam bench: {strict_json.problem(problem)}") from problem
    if isinstance(stored, list):
        raise BenchmarkError(
            f"{file} is a list of rows that do not say which machine and commit they are of; measure it anew"
        )
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != FORMAT:
        raise BenchmarkError(f"{file} is no report of this release: its format is {found!r}, not {FORMAT!r}")
    try:
        rows = [row_from(row) for row in stored["rows"]]
        return Stored(dict(stored["environment"]), rows, list(stored["models"]), dict(stored.get("ceilings", {})))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BenchmarkError(f"{file} is no report that can be read: {problem!r}") from problem


def summary(rows: Sequence[Row]) -> list[str]:
    """Of one shape: ours beside the best peer."""
    found = []
    for row in rows:
        if row.is_ours and row.ratio_to_best_peer:
            peers = [other for other in rows if other.seconds and not other.is_ours and other.l2 == row.l2]
            best = min(peers, key=lambda other: other.seconds or 0.0)
            warm = ", warm L2" if row.l2 == "warm" else ""
            found.append(
                f"{row.implementation}{warm}: {row.ratio_to_best_peer:.2f}x the best peer, {best.implementation}"
            )
    return found
