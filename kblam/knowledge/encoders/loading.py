"""From the words a user types to an encoder."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from kblam.errors import EncoderUnavailableError, argument
from kblam.knowledge.encoders.base import Encoder
from kblam.knowledge.encoders.openai import DEFAULT_BASE_URL, DEFAULT_KEY_VARIABLE, OpenAIEncoder, checked_base_url
from kblam.knowledge.encoders.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEncoder

_SHORT_NAMES = {"minilm": DEFAULT_MODEL, "all-minilm-l6-v2": DEFAULT_MODEL}
# The encoder that a knowledge base may ask for beside the default one.
NAMED_VARIABLE = "KBLAM_ENCODER"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_OPENAI = re.compile(r"openai:(?P<model>[^#@\s]+)(#(?P<dimensions>\d{1,5}))?(@(?P<base_url>https?://\S+))?")
_FORMS = (
    '"minilm" (the default), a sentence-transformers model on the hub ("sentence-transformers/all-mpnet-base-v2"), '
    'a folder that holds one, or "openai:MODEL[#DIMENSIONS][@BASE_URL]"'
)


def load_encoder(
    spec: str = "minilm",
    *,
    device: str | None = None,
    batch_size: int | None = None,
    api_key_env: str = DEFAULT_KEY_VARIABLE,
) -> Encoder:
    """The encoder a text asks for. Models are loaded and servers reached at the first use, not here.

    Args:
        spec: "minilm", a hub id "org/model", a folder, or "openai:MODEL[#DIMENSIONS][@BASE_URL]".
        device: for a model on this machine.
        batch_size: texts in one forward pass or one request; None is the encoder's own default.
        api_key_env: the environment variable with the key, for "openai:".

    Raises:
        EncoderUnavailableError: the text names no encoder; the message lists what is possible.
    """
    if not isinstance(spec, str):
        raise EncoderUnavailableError(f"an encoder is named by a text, got {type(spec).__name__}; possible: {_FORMS}")
    size = {} if batch_size is None else {"batch_size": batch_size}
    if spec.startswith("openai:"):
        parts = _OPENAI.fullmatch(spec)
        if parts is None:
            raise EncoderUnavailableError(f"cannot read the encoder {spec!r}; possible: {_FORMS}")
        dimensions = int(parts["dimensions"]) if parts["dimensions"] else None
        return OpenAIEncoder(
            parts["model"], base_url=parts["base_url"], dimensions=dimensions, api_key_env=api_key_env, **size
        )
    model = _SHORT_NAMES.get(spec.lower(), spec)
    if (model and _is_folder(model)) or _HUB_ID.fullmatch(model):
        return SentenceTransformerEncoder(model, device=device, **size)
    raise EncoderUnavailableError(f"no encoder or folder {spec!r}; possible: {_FORMS}")


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name that no file can have, a home that nobody has
        return False


def load_recorded_encoder(spec: str, device: str | None = None, *, api_key_env: str = DEFAULT_KEY_VARIABLE) -> Encoder:
    """The encoder whose spec was found in a file.

    A file may come from anyone, so its word alone is not enough to send texts, and the user's key, to an address, nor
    to download or load a model. It may name the default model and the user's own server; others the user names, too.

    Args:
        spec: as `load_encoder` takes it.
        device: for a model on this machine.
        api_key_env: as `load_encoder`; the user's own word, which no file has.

    Raises:
        EncoderUnavailableError: as `load_encoder`, or the spec names what the user has not named.
    """
    if spec == os.environ.get(NAMED_VARIABLE):
        return load_encoder(spec, device=device, api_key_env=api_key_env)
    parts = _OPENAI.fullmatch(spec)
    if parts is not None:
        address = checked_base_url(parts["base_url"] or DEFAULT_BASE_URL)
        trusted = {DEFAULT_BASE_URL, (os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")}
        if address not in trusted:
            raise EncoderUnavailableError(
                f"this knowledge base was built through the server {address}; to send texts there, "
                f"name it yourself: {_naming(spec)}OPENAI_BASE_URL={address}"
            )
    elif _SHORT_NAMES.get(spec.lower(), spec) != DEFAULT_MODEL:
        raise EncoderUnavailableError(
            f"this knowledge base was built with the encoder {spec!r}, and a file cannot choose what is loaded; name "
            f"it yourself: {_naming(spec)}{NAMED_VARIABLE}={shlex.quote(spec)}"
        )
    return load_encoder(spec, device=device, api_key_env=api_key_env)


_NAME_IT = ("kb build", "kb add", "kb doctor", "data import", "train")  # commands with --encoder for a base of yours


def _naming(spec: str) -> str:
    """How a caller names the encoder, before a variable that does it too; nothing where the command cannot."""
    named = argument(f"encoder=load_encoder({spec!r})", f"--encoder {shlex.quote(spec)}", _NAME_IT, "")
    return f"{named}, or " if named else ""
