"""`python -m kblam_kernels COMMAND`: commands about the kernels and this machine; each has a --help of its own."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

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
    """The exit status of this process: 130 after Ctrl-C, 1 where nobody reads on, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the locale lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        if sys.stdout is not None:  # else it is closed
            sys.stdout.flush()
    except KeyboardInterrupt:  # a build takes a minute
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain while it ends
        return 1
    return status


if __name__ == "__main__":
    sys.exit(process())
