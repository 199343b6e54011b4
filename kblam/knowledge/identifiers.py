"""Properties as programs write them, `dateOfBirth` or `date_of_birth`, read as words."""

from __future__ import annotations

import re
from functools import lru_cache

# Names with capitals inside that begin no word.
_WHOLE = re.compile(
    "(?:BlackBerry|DevOps|FedEx|GitHub|GitLab|GraphQL|JavaScript|LinkedIn|MySQL|PayPal|PlayStation|PostgreSQL|PowerPoint|"
    "PubMed|SharePoint|StackOverflow|TikTok|TypeScript|WeChat|WhatsApp|WiFi|WordPress|YouTube|kWh|linkedIn|mAh|macOS|mmHg)"
    "(?![a-z])"
)


@lru_cache(maxsize=4096)
def in_words(property: str) -> str:
    """A property with capitals inside as words: `dateOfBirth` and `DateOfBirth` are date of birth. Others stay.

    So does what has a part of one letter (pH, eMail), and what has spaces, but for words that begin small: the reader's
    "contactInfo phoneNumber" is contact info phone number.
    """
    if " " in property:
        return " ".join(_in_words(word) if word[:1].islower() else word for word in property.split(" "))
    return _in_words(property)


def spoken(property: str) -> str:
    """A property as people say it: the columns `date_of_birth` and `dateOfBirth` are the date of birth."""
    return " ".join(in_words(property).replace("_", " ").split()) or property


def forms(property: str) -> tuple[str, ...]:
    """What a question may say for it: as it is written, and in words."""
    said = in_words(property)
    return (property,) if said == property else (property, said)


def key(property: str) -> str:
    """What two spellings of one property have in common; marks tell "price in $" from "price in €"."""
    return spoken(property).casefold()


def _in_words(identifier: str) -> str:
    whole = {at for found in _WHOLE.finditer(identifier) for at in range(found.start() + 1, found.end())}
    cuts = [at for at in range(1, len(identifier)) if at not in whole and _begins_word(identifier, at)]
    parts = [identifier[start:end] for start, end in zip([0, *cuts], [*cuts, len(identifier)], strict=True)]
    if not cuts or any(len(part.strip("_")) == 1 for part in parts):
        return identifier
    return " ".join(part if _is_short(part) or _WHOLE.search(part) else part.lower() for part in parts)


def _is_short(part: str) -> bool:
    """An abbreviation, or several: URL, IDs."""
    return part.removesuffix("s").isupper()


def _begins_word(identifier: str, at: int) -> bool:
    """Where a small letter or a digit meets a capital, and where a run of capitals ends: birthPlace, isHTTPServer."""
    if not identifier[at].isupper():
        return False
    before, after = identifier[at - 1], identifier[at + 1 : at + 2]
    if before.islower() or before.isdigit():
        return True
    is_plural = after == "s" and not identifier[at + 2 : at + 3].islower()  # URLs
    return before.isupper() and after.islower() and not is_plural
