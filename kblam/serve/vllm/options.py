"""vLLM's own options, as `kblam serve --vllm` passes them on."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kblam.errors import ServingError
from kblam.vllm.settings import EXECUTORS

_OF_OURS = "kblam serve has it as {}"
_HTTP = "the HTTP server is kblam's own; put a proxy in front of it for what it lacks"
_ONE = "one API server process tells the engine what changes; for more throughput start several servers behind a proxy"
_REPLICAS = (
    "replicas of one engine would be told of changes one by one; start several servers behind a proxy, and tell each"
)
_MACHINES = (
    "scheduler and workers of one engine share small files, so they are on one machine; start a server on each, behind "
    "a proxy, and tell each of changes"
)
_PATHS = "it is for a path that is not served here"
_CLIENTS = "clients of several tenants are served, who get no say in it"
# Why an option is not passed on.
_REFUSED = {
    "model": _OF_OURS.format("MODEL"),
    "model-tag": _OF_OURS.format("MODEL"),
    "tokenizer": "the tokenizer is the model's own",
    "tokenizer-revision": "the tokenizer is the model's own",
    "revision": "the revision is the model folder's",
    "served-model-name": _OF_OURS.format("--name"),
    "dtype": _OF_OURS.format("--dtype"),
    "additional-config": "it says which adapter and bases there are; see --adapter, --kb, --storage and --capacity",
    "hf-overrides": "it chooses the model class that knows of knowledge",
    "host": _OF_OURS.format("--host"),
    "port": _OF_OURS.format("--port"),
    "api-key": "keys are read from KBLAM_API_KEYS",
    "api-server-count": _ONE,
    "headless": _ONE,
    "config": "pass its options one by one",
    "trust-request-chat-template": _CLIENTS,
    "trust-request-mm-kwargs": _CLIENTS,
    "enable-lora": "an adapter knows the base model's weights",
    "lora-modules": "an adapter knows the base model's weights",
    **dict.fromkeys(("nnodes", "node-rank", "master-addr", "master-port"), _MACHINES),
    **dict.fromkeys(("grpc", "grpc-port", "uds", "root-path", "middleware", "allow-credentials", "tokens-only"), _HTTP),
    **dict.fromkeys(
        ("allowed-origins", "allowed-methods", "allowed-headers", "enable-scale-out", "tool-server"), _HTTP
    ),
    **dict.fromkeys(("disable-fastapi-docs", "enable-offline-docs", "enable-request-id-headers"), _HTTP),
    **dict.fromkeys(("disable-uvicorn-access-log", "disable-access-log-for-endpoints", "enable-ssl-refresh"), _HTTP),
    **dict.fromkeys(("enable-tokenizer-info-endpoint", "enable-server-load-tracking"), _PATHS),
    **dict.fromkeys(("cohere-format", "cohere-is-reasoning-model"), _PATHS),
    **dict.fromkeys(("anthropic-disabled-thinking-effort", "enable-flash-late-interaction"), _PATHS),
}
_REFUSED_BEGINNINGS = {"ssl-": _HTTP, "h11-": _HTTP, "uvicorn-": _HTTP, "data-parallel": _REPLICAS, "dp-": _REPLICAS}


def cli_args() -> Any:
    """vLLM's module with the options of its server, where the release has it: from 0.33 on, and before."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.launchers.cli_args")


def arguments(own: Mapping[str, Any], passed: Sequence[str]) -> Any:
    """vLLM's arguments: what this server sets, and what the user passes on.

    Args:
        own: by the name of the option; True is a switch, None is left out.
        passed: `KEY=VALUE`, or `KEY` for a switch, without the two dashes.

    Raises:
        ServingError: an option is not passed on, or vLLM has none of that name, or not with that value.
    """
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> Any:
            raise ServingError(f"vLLM does not take these options: {message}; see --vllm")

    words = [
        f"--{key}" if value is True else f"--{key}={_said(value)}" for key, value in own.items() if value is not None
    ]
    theirs = cli_args()
    parser = theirs.make_arg_parser(Parser(prog="kblam serve --vllm", allow_abbrev=False))
    found = parser.parse_args([*words, *map(_word, passed)])
    try:
        theirs.validate_parsed_serve_args(found)
    except (TypeError, ValueError) as error:
        raise ServingError(f"vLLM does not take these options: {error}; see --vllm") from error
    return found


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _word(text: str) -> str:
    key, equals, value = text.removeprefix("--").partition("=")
    name = key.partition(".")[0].replace("_", "-").strip()
    if not name:
        raise ServingError(f"--vllm {text}: write KEY=VALUE, such as --vllm max-model-len=4096, or KEY for a switch")
    if reason := refusal(name, value):
        raise ServingError(f"--vllm {text} is not passed on: {reason}")
    return f"--{key.strip()}{equals}{value}"


def refusal(name: str, value: str) -> str | None:
    """Why an option of vLLM is not passed on; None if it is."""
    bare = name.removeprefix("no-")
    if bare == "distributed-executor-backend" and value not in EXECUTORS:  # or vLLM would say to install Ray first
        return f"{_MACHINES}. Here it is one of {', '.join(EXECUTORS)}"
    if bare in _REFUSED:
        return _REFUSED[bare]
    return next((why for beginning, why in _REFUSED_BEGINNINGS.items() if bare.startswith(beginning)), None)
