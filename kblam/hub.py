"""Whether the Hugging Face hub can be reached, asked once before its client tries for a minute.

Models, adapters and encoders by hub names are then looked for in its cache alone, and what is not there is told in
seconds.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

_SECONDS = 4.0
_GOOD_FOR = 60.0


def unreachable() -> str | None:
    """Why the hub cannot be asked now; None if it can. What was found is good for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _asked(constants.ENDPOINT, int(time.monotonic() // _GOOD_FOR))


@functools.lru_cache(maxsize=1)
def _asked(endpoint: str, _minute: int) -> str | None:
    import httpx

    try:
        httpx.head(endpoint, timeout=_SECONDS)  # any answer will do; a proxy of the environment is used
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"{endpoint} cannot be reached: {reason}"
    return None


def cached(name: str, *files: str) -> Path | None:
    """The folder of a hub model in the hub's cache; None where one of these files is not in it."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(name, file) for file in files]
    return Path(found[0]).parent if all(isinstance(one, str) for one in found) else None  # type: ignore[arg-type]


def trouble(folder: Path, *files: str) -> str | None:
    """Why a model folder cannot be loaded, as far as its files tell without reading them all; None if it can.

    The headers of weights are read: they say how long the file has to be.
    """
    from safetensors import SafetensorError, safe_open

    for name in files:
        path = folder / name
        try:
            if not path.is_file() or not path.stat().st_size:
                return f"{path} is missing or empty"
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as weights:
                    weights.keys()
        except (OSError, SafetensorError) as error:
            return f"{path} cannot be read: {error}"
    return None
