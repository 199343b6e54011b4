"""`python -m kblam_kernels COMMAND`: commands about the kernels and this machine; each has a --help of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from kblam_kernels import interrupts

# Command: module with a `main(arguments) -> int | None`, and what it does.
COMMANDS = {
    "env": ("kblam_kernels.tools.env", "what this machine offers the kernels, for bug reports"),
    "build": ("kblam_kernels.common.build", "build the C++ kernels ahead of their first use"),
    "resources": (
        "kblam_kernels.tools.resources",
        "registers, spills and shared memory of the Triton kernels",
    ),
    "plan": ("kblam_kernels.plan.__main__", "latent or dense knowledge for a model, a number of triples and a device"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return importlib.import_module(COMMANDS[given[0]][0]).main(given[1:]) or 0
    known = "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    if given in (["--help"], ["-h"]):
        print(f"usage: python -m kblam_kernels COMMAND [options]\n\n{known}")
        return 0
    wanted = f"{given[0]!r} is not a command" if given else "give a command"
    print(f"python -m kblam_kernels: {wanted}:\n{known}", file=sys.stderr)
    return 2


def process() -> int:
    """The exit status of this process."""
    return interrupts.status_of(main)


if __name__ == "__main__":
    interrupts.leave(main)
