"""`python -m kblam` is the command `kblam`."""

from kblam.cli import main

main()
