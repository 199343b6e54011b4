"""Experiments, each a command: `python -m experiments.NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from kblam.errors import KblamError


@contextmanager
def told(parser: argparse.ArgumentParser) -> Iterator[None]:
    """What is wrong with what a command was given is one line, as of `kblam`, and no traceback."""
    try:
        yield
    except (KblamError, OSError) as error:
        parser.error(str(error))
