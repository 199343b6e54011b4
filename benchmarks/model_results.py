"""What `pytest benchmarks/test_model.py --benchmark-json FILE` says of whole models, read back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kblam import strict_json
from kblam.bench.environment import MACHINE
from kblam.errors import BenchmarkError

WITHOUT, IN_CONTEXT = "without knowledge", "in context"
_GROUP = re.compile(r"(?P<model>.+) (?P<what>next \d+ tokens|first token) M(?P<triples>\d+)")


@dataclass(frozen=True)
class Timed:
    """One model, by implementation and triples: tokens a second, and seconds to the first one."""

    tokens: dict[str, dict[int, float]] = field(default_factory=dict)
    first: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """All models of some files, and the environment of the first one."""

    about: dict[str, Any]
    timed: dict[str, Timed]


def is_of_pytest(file: Path) -> bool:
    """Whether a file is one of pytest-benchmark; False for what cannot be read, which another reader refuses."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and "benchmarks" in stored


def read_models(files: Sequence[Path]) -> Models:
    """Figures of the files together.

    What reads no knowledge takes the same time whatever its size is called: its one value stands at every size.

    Raises:
        BenchmarkError: a file has another form, or no whole model.
    """
    timed: dict[str, Timed] = {}
    about: dict[str, Any] = {}
    for file in files:
        stored = _stored(file)
        check_same_run(stored["environment"], about or stored["environment"], file)
        about = about or stored["environment"]
        for entry in stored["benchmarks"]:
            try:
                _take(entry, timed)
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
                raise BenchmarkError(f"{file} is no file of benchmarks/test_model.py: {problem!r}") from problem
    if not timed:
        raise BenchmarkError(f"{', '.join(map(str, files))}: no whole model; run benchmarks/test_model.py")
    for of_model in timed.values():
        for lines in (of_model.tokens, of_model.first):
            _spread(lines)
    return Models(about, timed)


def check_same_run(about: dict[str, Any], first: dict[str, Any], file: Path) -> None:
    """Raises BenchmarkError if two files are of different machines or commits: one picture names one of each."""
    for name in (*MACHINE, "commit"):
        if about.get(name) != first.get(name):
            raise BenchmarkError(f"{file} has {name} {about.get(name)!r}, another file {first.get(name)!r}")


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = strict_json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise BenchmarkError(f"cannot read {file}: {problem}") from problem
    if not isinstance(stored.get("environment"), dict):
        raise BenchmarkError(f"{file} does not say which machine and commit it is of; measure it anew")
    return stored


def _take(entry: dict[str, Any], timed: dict[str, Timed]) -> None:
    """One benchmark; those of other suites are passed over."""
    found = _GROUP.fullmatch(entry["group"] or "")
    if found is None:
        return
    info, seconds, triples = entry["extra_info"], float(entry["stats"]["median"]), int(found["triples"])
    of_model = timed.setdefault(found["model"], Timed())
    if found["what"] == "first token":
        of_model.first.setdefault(info["implementation"], {})[triples] = seconds
    else:
        of_model.tokens.setdefault(info["implementation"], {})[triples] = int(info["tokens"]) / seconds


def _spread(lines: dict[str, dict[int, float]]) -> None:
    sizes = sorted({triples for by_size in lines.values() for triples in by_size})
    values = lines.get(WITHOUT, {})
    if len(values) == 1:
        (only,) = values.values()
        lines[WITHOUT] = dict.fromkeys(sizes, only)
