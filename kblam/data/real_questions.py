"""Natural questions about the real bases, which no training sees: by base and property, with {name}."""

from __future__ import annotations

NATURAL: dict[str, dict[str, tuple[str, ...]]] = {}
