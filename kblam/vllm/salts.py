"""Salts of the prefix cache: which blocks of keys and values a request may find there again.

The keys and values of a prompt depend on the knowledge that its tokens attended to, so a cached prefix is good for one
version of one base. The salt that keeps them apart is added in the scheduler, where every request comes by, whoever
made it.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Any

from kblam.adapter import AdapterConfig
from kblam.vllm.admission import VECTOR
from kblam.vllm.registry import Loaded

OURS = "kblam:"  # how the salts of blocks begin that attended to knowledge


def salt_of_cache(request: Any, base: str, loaded: Loaded) -> None:
    """Makes the hashes of a request's blocks those of one version of one base, and of one question where it has a part
    in the knowledge queries: then keys and values above the first knowledge layer depend on it."""
    _salt_of(request, base, loaded, "")


def salt_to_evidence(request: Any, base: str, loaded: Loaded, config: AdapterConfig) -> None:
    """As `salt_of_cache`, of a request that attends to knowledge below the evidence layer alone (`step.py`).

    Where no knowledge layer is below, its blocks are those of the model without knowledge, good for all questions and
    versions. They are the base's own all the same: how long a request takes would tell one tenant what others ask.
    """
    if config.evidence_layer == min(config.knowledge_layers):
        _salt(request, f"{OURS}{base}@to evidence:{request.cache_salt or ''}")
    else:
        _salt_of(request, base, loaded, " to evidence")


def _salt_of(request: Any, base: str, loaded: Loaded, how_far: str) -> None:
    vector = request.sampling_params.extra_args.get(VECTOR)
    question = "" if vector is None else blake2b(array("d", vector).tobytes(), digest_size=16).hexdigest()
    # No name has @, and a revision counts in one file only, which another may have replaced: hence the generation.
    ours = f"{OURS}{base}@{loaded.revision}.{loaded.generation}{how_far}:{question}"
    _salt(request, f"{ours}:{request.cache_salt or ''}")


def salt_without_base(request: Any) -> None:
    """Keeps a client from naming the blocks of a base by a salt of his own."""
    if (request.cache_salt or "").startswith(OURS):
        _salt(request, plain_salt(request.cache_salt))


def _salt(request: Any, salt: str | None) -> None:
    request.cache_salt = salt
    request.block_hashes.clear()
    request.update_block_hashes()


def plain_salt(given: str | None) -> str | None:
    """A client's salt of the prefix cache, which is none of ours."""
    return f"plain:{given}" if given is not None and given.startswith(OURS) else given
