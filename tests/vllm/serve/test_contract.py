"""What holds on every engine, on vLLM."""

from tests.serve.contract import *  # noqa: F403
