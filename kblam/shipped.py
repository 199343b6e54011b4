"""Where the demo model lies that comes with this package; `python -m kblam.demo.train` writes it."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).parent / "demo" / "assets"


def demo_is_shipped() -> bool:
    """Whether it came with this installation."""
    return (DEMO / "model").is_dir() and (DEMO / "adapter").is_dir()
