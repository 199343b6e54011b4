"""`python -m kblam.demo`: SmolLM2 answers from a knowledge base that it never saw."""

from kblam.interrupts import leave


def _main() -> int:
    from kblam.demo.run import main  # takes seconds, in which Ctrl-C may come

    return main()


if __name__ == "__main__":
    leave(_main)
