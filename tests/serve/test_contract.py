"""What holds on every engine, on transformers."""

from tests.serve.contract import *  # noqa: F403
