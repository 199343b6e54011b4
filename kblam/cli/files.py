"""The knowledge base file that a path means, opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from kblam.cli.errors import CommandError

if TYPE_CHECKING:
    from kblam.knowledge import Encoder, KnowledgeBase


def file_of(kb: Path) -> Path:
    """The knowledge base file that a path means: itself, or the one in a model folder.

    Raises:
        CommandError: it is a file of triples, or another folder.
    """
    if kb.is_dir():
        from kblam.folder.manifest import KNOWLEDGE, is_model_folder

        if is_model_folder(kb):
            return kb / KNOWLEDGE
        found = sorted(one.name for one in kb.glob("*.kb"))
        new = quote(str(kb / "facts.kb"))
        hint = f"did you mean {kb / found[0]}?" if found else f"for a new one: kblam kb build FILE -o {new}"
        raise CommandError(f"{kb} is a folder, and a knowledge base is a file; {hint}")
    from kblam.knowledge.files import FORMAT_OF_SUFFIX
    from kblam.knowledge.schema import is_knowledge_base

    if kb.suffix.lower() in FORMAT_OF_SUFFIX and kb.is_file() and not is_knowledge_base(kb):
        raise CommandError(
            f"{kb} is a file of triples; make a knowledge base of it first: kblam kb build {quote(str(kb))} -o "
            f"{quote(str(kb.with_suffix('.kb')))}"
        )
    return kb


def check_is_no_source(output: Path, sources: Iterable[str | Path]) -> None:
    """What is read is never replaced by what is made of it, whatever `--overwrite` says.

    Raises:
        CommandError: the output is one of the sources.
    """
    place = os.path.realpath(output)
    if any(os.path.realpath(source) == place for source in sources):
        raise CommandError(f"{output} is what is read, and would be replaced; name another file to write")


def open_file(kb: Path, *, read_only: bool = True, encoder: Encoder | None = None) -> KnowledgeBase:
    """The knowledge base at a path, with its own encoder unless the user names one."""
    from kblam.knowledge import KnowledgeBase

    return KnowledgeBase.open(file_of(kb), encoder, read_only=read_only)


def asked_encoder(kb: Path, spec: str | None, api_key_env: str | None) -> Encoder | None:
    """The encoder that options name, or that of a knowledge base with the key they name; None where they name nothing.

    Raises:
        CommandError: a key is named, and the encoder needs none.
    """
    from kblam.knowledge import load_encoder
    from kblam.knowledge.encoders import load_recorded_encoder
    from kblam.knowledge.schema import is_blank

    if api_key_env is None:
        return None if spec is None else load_encoder(spec)
    recorded = ""
    if spec is None and not is_blank(file_of(kb)):
        with open_file(kb) as opened:
            recorded = opened.encoder_spec
    if not (used := spec or recorded or "minilm").startswith("openai:"):
        raise CommandError(
            f"--api-key-env {api_key_env} is for an openai: encoder, and {used} needs no key; leave it out, or name "
            "the encoder: --encoder openai:MODEL"
        )
    if spec is not None:
        return load_encoder(spec, api_key_env=api_key_env)
    return load_recorded_encoder(recorded, api_key_env=api_key_env)
