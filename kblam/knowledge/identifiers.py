"""Properties as programs write them, `dateOfBirth` or `date_of_birth`, read as words."""

from __future__ import annotations

import re
from functools import lru_cache

# Where a small letter or a digit meets a capital, and where a run of capitals ends: birthPlace, isHTTPServer.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_]+")
# Parts of two letters that are words of their own. Others are parts of names: MySQL, WiFi, PhD.
_SHORT = {"an", "as", "at", "by", "do", "id", "in", "ip", "is", "kg", "km", "no", "nr", "of", "on", "or", "to", "up"}
_ENDINGS = {"API", "ID", "IP", "URI", "URL", "UUID"}
# Two words for the eye only, in small letters.
_ONE_WORD = {
    *("devops", "facebook", "fedex", "github", "gitlab", "javascript", "linkedin", "macos", "paypal", "playstation"),
    *("powerpoint", "tiktok", "typescript", "wechat", "whatsapp", "wordpress", "youtube"),
}


@lru_cache(maxsize=4096)
def in_words(property: str) -> str:
    """A property with capitals inside as words: `dateOfBirth` and `DateOfBirth` are date of birth. Others stay.

    So do names and abbreviations, which have short parts: pH, eMail, WiFi, MySQL, LinkedIn.
    """
    if not _IDENTIFIER.fullmatch(property) or property.casefold() in _ONE_WORD:
        return property
    parts = _HUMP.split(property)
    if len(parts) == 1 or any(len(part) == 1 for part in parts):
        return property
    if property[0].isupper() and not (
        all(len(part) > 2 or part.lower() in _SHORT for part in parts)
        and (not parts[-1].isupper() or parts[-1] in _ENDINGS)
    ):
        return property
    return " ".join(part if part.isupper() else part.lower() for part in parts)


def spoken(property: str) -> str:
    """A property as people say it: the columns `date_of_birth` and `dateOfBirth` are the date of birth."""
    return " ".join(in_words(property).replace("_", " ").split()) or property
