"""Which languages of a source are read, and which of them needs no mark."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kblam.errors import DataError

ALL = "*"
_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


class Languages:
    """Texts in the first language, and those without a tag, are plain; those in others get their tag.

    Args:
        tags: in order; "*" stands for all that are not named. Without it, texts in others are left out.

    Raises:
        DataError: a tag is none.
    """

    def __init__(self, tags: Sequence[str] = ("en", ALL)) -> None:
        if not tags or tags[0] == ALL:
            raise DataError('languages need one that comes first, such as "en,*"')
        for tag in tags:
            if tag != ALL and not _TAG.fullmatch(tag):
                raise DataError(f"{tag!r} is no tag of a language; write en, de, zh-Hans, or * for all others")
        self._tags = [tag.lower() for tag in tags]

    def rank(self, tag: str) -> int | None:
        """How well a name in this language serves, 0 best; None where the language is not wanted."""
        if not tag:
            return 1
        short = tag.lower().partition("-")[0]
        for rank, wanted in enumerate(self._tags):
            if wanted in (tag.lower(), short):
                return 2 * rank
        return 2 * len(self._tags) if ALL in self._tags else None

    def mark(self, tag: str) -> str:
        """What is added to a property: nothing, or the tag in brackets."""
        return "" if not tag or self.rank(tag) == 0 else f" ({tag.lower()})"

    def __str__(self) -> str:
        return ", ".join(tag for tag in self._tags if tag != ALL)
