"""How an answer's text is compared with the right one. Case counts; runs of white space do not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def plain(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


# A hyphen, a minus sign or a dash before a number is its sign unless it stands between two words: "7-8" has no sign.
_NO_SIGN = r"(?<!(?<!\w)[-\u2212\u2013])"
_NUMBER = re.compile(r"(?P<sign>[-\u2212\u2013+]?)(?P<currency>[$€£¥]?)\.?\d")


def place(text: str, phrase: str) -> int:
    """Where a phrase stands in a text verbatim, and not as part of a longer word or number; -1 if nowhere.

    "7" is not in "17", "7.5" or "-7", nor is "is 1" in "is 17". White space is taken as it is.
    """
    before = r"(?<!\w)" if phrase[:1].isalnum() else ""
    after = r"(?!\w)" if phrase[-1:].isalnum() else ""
    if number := _NUMBER.match(phrase):
        before = ("" if number["currency"] else r"(?<!\w)(?<!\d[.,])") + ("" if number["sign"] else _NO_SIGN)
    if phrase[-1:].isdigit():
        after += r"(?![.,]\d)"
    found = re.search(before + re.escape(phrase) + after, text)
    return found.start() if found else -1


def holds(text: str, value: str) -> bool:
    """Whether a value stands in a text verbatim, as a word or number of its own (`place`)."""
    return place(plain(text), plain(value)) >= 0


# How a model says in words of its own that it does not know: of itself, or of the facts it was given. What follows is
# looked at too: "not known" says nothing of an answer in "not known for its beaches".
_NOT = r"(?:\s+not|\s*n['’]t)"
_SOURCE = r"(?:facts?|information|text|list|context|data|knowledge\s+base|passage)"
_SAY = (
    r"(?:mention|say|state|specif(?:y|ie)|give|list|provide|include|contain|tell|answer|cover|name|describe|have|ha)s?"
)
_SAID = r"(?:mentioned|stated|specified|described|provided|given|listed|available|known|included|said|recorded)"
_ENDS = r"(?=\s*(?:$|[.,;:!?)]))"
_THE = r"(?:the|these|those|this|my|your)"
_HERE = rf"(?:in|by|among|within|from|part\s+of)\s+(?:any\s+of\s+)?{_THE}\s+(?:\w+\s+){{0,2}}?{_SOURCE}\b"
_OF_WHAT = (
    r"\s+(?:about|of|on|for|in|regarding|concerning|as\s+to|that|which|what|who|to|at|here|available|given|provided)\b"
)
_UNSAID = rf"""
    (?:
        {_SAID} (?:\s+\w+ly)? (?: {_ENDS} | \s+{_HERE} | \s+(?:anywhere|here|there|at\s+all|yet|to\s+me)\b
            | \s+(?:who|whom|what|when|where|which|why|how|whether|if)\b )
      | (?:mentioned|stated|specified|provided|given)\s+(?:for|about|with)\b
    )
"""
_DECLINES = re.compile(
    rf"""
      \b(?:i|we)\s+(?:really\s+|just\s+|simply\s+)?
      (?:(?:do|can|could|did|am|are)\s*(?:not|n['’]?t)|cannot|'m\s+not|’m\s+not|have\s+no|had\s+no)\s+
      (?:\w+\s+){{0,2}}?(?:know|find|say|tell|answer|determine|provide|have|able|sure|aware|information|idea|access)\b
    | \b(?:i\s+am|i['’]m)\s+(?:unable|unsure|not\s+(?:sure|aware|able))\b
    | \bthere\s+(?:(?:is|are|was|were)\s+no|(?:is|are|was|were){_NOT}\s+any)\s+(?:\w+\s+){{0,2}}?
      (?:information|mention|records?|facts?|data|details?|answer|entry)(?:{_ENDS}|{_OF_WHAT})
    | \b(?:is|are|was|were){_NOT}\s+(?:\w+\s+)?{_UNSAID}
    | \b(?:is|are|was|were){_NOT}\s+(?:\w+\s+)?{_HERE}(?:{_ENDS}|\s+(?:i|we|you|above|given|provided)\b)
    | (?<!according\sto\sthe\s)(?<!according\sto\sthese\s)\b{_SOURCE}\b(?!\s+(?:says?|states?|shows?|tells?|is|are)\b)
      [^.;]{{0,40}}?\bdo(?:es)?{_NOT}\s+(?:\w+\s+)?{_SAY}\b
    | \bnone\s+of\s+{_THE}\s+(?:\w+\s+){{0,2}}?{_SOURCE}\b[^.;]{{0,40}}?
      \b(?:{_SAY}|(?:is|are)\s+(?:about|relevant))\b
    | ^\W*no\s+(?:\w+\s+)?{_SOURCE}\s+(?:[^\s.;]+\s+){{0,5}}?(?:{_SAY}|(?:is|are|was|were)\s+(?:about|{_UNSAID}))\b
    | ^\W*no\s+(?:\w+\s+){{1,4}}?(?:is|are|was|were)\s+{_UNSAID}
    | \bno\s+(?:relevant\s+)?information(?:{_ENDS}|{_OF_WHAT})
    | ^\W*no\s+(?:answer|data|facts?|records?|mention|details?)(?:\W*$|\s+(?:about|of|on|for|regarding)\b)
    | ^\W*(?:it\s+)?(?:\w+ly\s+)?not\s+{_UNSAID}
    | ^\W*(?:it|they)\s+do(?:es)?{_NOT}\s+say\W*$
    | ^\W*unknown\W*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SORRY = re.compile(
    r"^\W*(?:i\s+am\s+|i['’]m\s+)?(?:very\s+|so\s+)?(?:sorry|unfortunately|my\s+apologies)\b\W*", re.IGNORECASE
)


def declines(text: str) -> bool:
    """Whether the first sentence of a text, but for an apology, says in any words that there is no answer: "I don't
    know", "The facts do not mention it", "Not specified".
    """
    first = re.split(r"(?<=[.!?])\s", _SORRY.sub("", plain(text)), maxsplit=1)[0]
    return _DECLINES.search(first) is not None


def words(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation: what overlap is counted in."""
    return re.findall(r"\w+", text.lower())


def token_f1(text: str, reference: str) -> float:
    """Harmonic mean of precision and recall of words, as SQuAD counts them; 1 if neither has a word."""
    said, right = words(text), words(reference)
    common = sum((Counter(said) & Counter(right)).values())
    return _harmonic(common, len(said), len(right))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L: F1 over the longest common subsequence of words (C.-Y. Lin, 2004)."""
    said, right = words(text), words(reference)
    return _harmonic(_common_subsequence(said, right), len(said), len(right))


def _harmonic(common: int, said: int, right: int) -> float:
    return 2 * common / (said + right) if said + right else 1.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    longest = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, 1):
            best = diagonal + 1 if word == other else max(longest[place], longest[place - 1])
            diagonal, longest[place] = longest[place], best
    return longest[-1]
