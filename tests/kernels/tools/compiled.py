"""The record of what the compiler makes of every row of `python -m kblam_kernels resources`, and how it is made anew.

    make resources                             # compiles what changed, says what became of it, writes compiled.jsonl
    python -m tests.kernels.tools.compiled --keys                # what each row would be compiled from; in seconds

A compile takes seconds, and what comes out follows from what goes in. So it is kept beside a key of all that went in:
the kernel with every function that it calls, but not their comments, docstrings and line numbers; types and constants
of the call; warps and stages; the architecture; the version of Triton. So a change of a kernel shows in its diff what
it costs in registers and shared memory.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kblam_kernels.common.launch import Launch
from kblam_kernels.tools import resources
from kblam_kernels.tools.cases import Case, cases
from kblam_kernels.tools.resources import Resources

RECORD = Path(__file__).with_name("compiled.jsonl")
Record = dict[str, tuple[str, Resources]]
MEASURED = ("tile", "registers", "spill_bytes", "shared_bytes", "tensor_core_instructions")


def name_of(row: Resources) -> str:
    """A row by the text that `--match` looks at."""
    return f"{row.arch} {row.kernel} {row.variant}"


def read(record: Path = RECORD) -> tuple[str, Record]:
    """The version of Triton that the record was made with, and by name the key and the resources of each row."""
    head, *lines = record.read_text().splitlines()
    rows: Record = {}
    for line in lines:
        fields: dict[str, Any] = json.loads(line)
        key = fields.pop("key")
        row = Resources(**fields)
        rows[name_of(row)] = (key, row)
    return json.loads(head)["triton"], rows


def write(rows: Record, triton: str, record: Path = RECORD) -> None:
    """One line a row, in the order of the command."""
    lines = [json.dumps({**dataclasses.asdict(row), "key": key}) for key, row in rows.values()]
    unfinished = record.with_suffix(".part")
    unfinished.write_text("\n".join([json.dumps({"triton": triton}), *lines]) + "\n")
    unfinished.replace(record)


def without_places() -> None:
    """Takes comments, docstrings and line numbers out of what Triton computes its own keys from."""
    import triton

    for module in [module for name, module in sys.modules.items() if name.startswith("kblam_kernels.")]:
        for function in vars(module).values():
            if isinstance(function, triton.JITFunction) and function.__module__ == module.__name__:
                tree = function.parse()
                body = tree.body[0].body
                if len(body) > 1 and ast.get_docstring(tree.body[0]) is not None:
                    del body[0]
                function._unsafe_update_src(ast.unparse(tree))
                function.starting_line_number = 0


def key_of(case: Case, launch: Launch) -> str:
    """Of all that the machine code of a row follows from; after `without_places`."""
    import triton

    source = resources.source_of(launch)
    parts = (triton.__version__, case.arch, launch.tile.num_warps, launch.tile.num_stages, source.hash())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def keys() -> dict[str, tuple[str, Case]]:
    """By name, the key of each row as the sources stand, and its case."""
    # Recorded first: launchers import the kernels.
    launches = [(case, resources.launch_of(case)) for case in cases()]
    without_places()
    return {
        f"{case.arch} {launch.kernel.__name__} {case.variant}": (key_of(case, launch), case)
        for case, launch in launches
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make resources", description=__doc__.splitlines()[0])
    parser.add_argument("--keys", action="store_true", help="print the keys and end")
    parser.add_argument("--processes", type=int, default=2, help="compile this many rows at once")
    options = parser.parse_args(arguments)
    import triton

    now = keys()
    if options.keys:
        print(json.dumps({name: key for name, (key, _) in now.items()}))
        return 0
    recorded = read()[1] if RECORD.exists() else {}
    stale = {name: case for name, (key, case) in now.items() if name not in recorded or recorded[name][0] != key}
    print(f"{len(stale)} of {len(now)} rows are to be compiled")
    rows = {name: recorded[name] for name in now if name not in stale}
    for name, row in zip(stale, resources.measure_all(list(stale.values()), options.processes), strict=True):
        rows[name] = (now[name][0], row)
        print(changed(recorded[name][1] if name in recorded else None, row), flush=True)
    for name in sorted(set(recorded) - set(now)):
        print(f"{name}: no longer there")
    write({name: rows[name] for name in now}, triton.__version__)
    return 1 if any(row.broken_limits() for _, row in rows.values()) else 0


def changed(before: Resources | None, after: Resources) -> str:
    """What became of a row, in one line."""
    if before is None:
        numbers = [f"{field} {getattr(after, field)}" for field in MEASURED]
    else:
        numbers = [
            f"{field} {getattr(before, field)} -> {getattr(after, field)}"
            for field in MEASURED
            if getattr(before, field) != getattr(after, field)
        ] or ["the same"]
    return "; ".join([f"{name_of(after)}: {', '.join(numbers)}", *after.broken_limits()])


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 replaces the compiler; unset it")
    sys.exit(main())
