"""What comes with this package: an adapter for SmolLM2, which answers where no model is named, and the tiny model."""

from __future__ import annotations

import difflib
from pathlib import Path

# Short names of the two models, as `--model` takes them and as adapters record them.
SMOLLM2, TINY = "smollm2", "tiny"
# The guides that docstrings and messages name.
DOCS = Path(__file__).parent / "docs"
# What the tiny model can be asked for; it was trained on nothing else.
TINY_PROPERTIES = (
    "purpose",
    "color",
    "origin",
    "guardian",
    "weather",
    "food",
    "sound",
    "material",
    "weakness",
    "treasure",
    "hobby",
    "festival",
)
# An adapter folder, made by `kblam train`.
SMOLLM2_ADAPTER = Path(__file__).parent / "assets" / "smollm2"
# The tiny model and its adapter; `python -m kblam.demo.tiny.train` makes them.
DEMO = Path(__file__).parent / "demo" / "tiny" / "assets"


def smollm2_is_shipped() -> bool:
    """Whether the adapter for SmolLM2 came with this installation."""
    return all((SMOLLM2_ADAPTER / name).is_file() for name in ("config.json", "model.safetensors"))


def demo_is_shipped() -> bool:
    """Whether the tiny model came with this installation."""
    return (DEMO / "model").is_dir() and (DEMO / "adapter").is_dir()


def parts_of(model: str) -> tuple[str, Path] | None:
    """The base model and the adapter that come with this installation under a short name; None for any other name."""
    if model == SMOLLM2 and smollm2_is_shipped():
        return SMOLLM2, SMOLLM2_ADAPTER
    if model == TINY and demo_is_shipped():
        return str(DEMO / "model"), DEMO / "adapter"
    return None


def meant(name: object) -> str:
    """What to add to a message about a model that is not there: the short name that is nearly the same."""
    near = difflib.get_close_matches(str(name).lower(), (SMOLLM2, TINY), 1, 0.7)
    return f"; did you mean {near[0]}?" if near and near[0] != name else ""
