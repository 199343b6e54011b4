"""What an installation of the kernels alone lacks, and the command that brings it."""

from __future__ import annotations

import importlib.metadata
import re
from typing import NamedTuple

DISTRIBUTION = "kblam-kernels"
# Packages that are imported under another name than they are installed under.
_INSTALLED_AS = {"yaml": "pyyaml", "faiss": "faiss-cpu", "llama_index": "llama-index-core"}
_REQUIREMENT = re.compile(r"""^\s*([\w.-]+)\s*([^;]*?)\s*(?:;.*?extra\s*==\s*["']([\w.-]+)["'].*|;.*)?$""")


class Requirement(NamedTuple):
    """A line of this distribution's requirements.

    Args:
        name: of the distribution.
        versions: as pyproject.toml has them, such as ">=5.17,<6".
        extra: that asks for it; None for what is always needed.
    """

    name: str
    versions: str
    extra: str | None


def requirements() -> list[Requirement]:
    """All that this installation may need, in the order of pyproject.toml."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a folder of sources on the path
        lines = []
    found = [_REQUIREMENT.match(line) for line in lines]
    return [Requirement(one[1], one[2], one[3]) for one in found if one is not None]


def missing(error: ImportError) -> str | None:
    """One line that names the package and the command that installs it; None where nothing of ours asks for it."""
    module = (error.name or "").partition(".")[0]
    wanted = _plain(_INSTALLED_AS.get(module, module))
    for requirement in requirements():
        if _plain(requirement.name) == wanted:
            extra = "" if requirement.extra is None else f"[{requirement.extra}]"
            checkout = f", or in a checkout '.{extra}'" if extra else ""
            return f"the package {requirement.name} is not installed; pip install '{DISTRIBUTION}{extra}'{checkout}"
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
