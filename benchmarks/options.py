"""Options that the commands of this folder share: what cannot be is one line and exit status 2, before any work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kblam.bench.environment import check_is_here, environment
from kblam.bench.output import STDOUT
from kblam.bench.report import check_target
from kblam.errors import BenchmarkError
from kblam_kernels import BackendUnavailableError


def at_least(least: int) -> Callable[[str], int]:
    """A whole number, as argparse reads one."""

    def number(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = least - 1
        if found < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {text!r}")
        return found

    return number


def check(parser: argparse.ArgumentParser, json: str | Path | None, device: str | None = None) -> None:
    """Ends the command where its rows could not be written, or nothing could be measured on the device.

    Args:
        json: the file of --json, STDOUT for none.
        device: of --device; None for a command that has none.
    """
    try:
        if device is not None:
            check_is_here(device)
        check_target(None if json is None or str(json) == STDOUT else Path(json), "--json")
    except (BackendUnavailableError, BenchmarkError) as error:
        parser.error(str(error))


def document(given: argparse.Namespace, dtype: torch.dtype | None = None, **content: Any) -> dict[str, Any]:
    """A result file: where it was measured, the options that say what was, and the rows."""
    options = {name: value for name, value in vars(given).items() if name != "json"}
    return {"environment": environment(options.get("device", "cpu"), dtype), "options": options, **content}
