"""Packages that only some formats need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kblam.errors import MissingPackageError
from kblam.extras import DISTRIBUTION


def needed(module: str, extra: str) -> Any:
    """A module that an extra brings.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"the package {module.partition('.')[0]} is not installed; pip install '{DISTRIBUTION}[{extra}]', or in a "
            f"checkout '.[{extra}]'"
        ) from error
