"""Whether a name in a question goes on: "Acme" in "the revenue of Acme Holdings", which is another company.

A knowledge base that has no Acme Holdings cannot tell; a capital letter can. Only in English, where few other words
have one.
"""

from __future__ import annotations

import re

from kblam.knowledge.mention import words

# A sentence of English: in German each noun has a capital.
_ENGLISH = re.compile(
    r"\b(?:the|of|is|are|what|who|whose|how|does|did|has|where|when|which|tell|give)\b", re.IGNORECASE
)
_NEXT = re.compile(r" +([^\W\d_][^\W_]*)")
_WORD = re.compile(r"[^\W\d_]{3,}")
_ROMAN = re.compile(r"[IVX]+")
# Of the same company or person.
_SAME = frozenset(words("ag co company corp corporation gmbh inc incorporated jr limited llc ltd plc sa sr"))
# What the next sentence begins with, where a question has no mark at its end.
_BEGINS = frozenset(
    words(
        "a all and any as at be best but can cheers could do don either excuse for from full give go have he help hope "
        "hurry i if in it its just kind let looking many my much no nobody not now on one only or our please quick she "
        "short so some sorry take tell thank thanks that the their then there these they this those to ty we what when "
        "where which who why will with would yes you your"
    )
)


def goes_on(text: str, start: int, end: int) -> bool:
    """Whether the characters [start, end) of a question, a name, are likely the beginning of a longer one.

    So if the next word has a capital, as the name's last has. Not in a text that has capitals everywhere, before "Inc"
    and the like, before a new sentence, and before an abbreviation ("Acme CEO").
    """
    following = _NEXT.match(text, end)
    if following is None or not following[1][0].isupper() or _ENGLISH.search(text) is None:
        return False
    last = re.split(r"[\W_]+", text[start:end].rstrip())[-1]
    word = following[1]
    if not last[:1].isupper() or word.casefold() in _SAME | _BEGINS:
        return False
    if len(word) > 1 and word.isupper() and _ROMAN.fullmatch(word) is None:
        return False
    others = text[:start] + " " + text[following.end() :]
    return any(one[0][0].islower() for one in _WORD.finditer(others))
