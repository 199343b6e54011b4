"""Where a quote stands in a text, also if a model wrote its white space or its quotation marks otherwise."""

from __future__ import annotations

import re

# One character for one, so that places stay the same.
_PLAIN = str.maketrans("‘’‚‛“”„‟‐‑‒–—−\u00a0\u202f\u2009", "''''\"\"\"\"------   ")
SHORTEST = 4  # characters of a quote that says something


def find_quote(text: str, quote: str) -> tuple[int, int] | None:
    """[start, end) of a quote in a text; None if its words do not stand there, in this order and nothing between."""
    words = quote.split()
    if sum(map(len, words)) < SHORTEST:
        return None
    at = text.find(quote.strip())
    if at >= 0:
        return at, at + len(quote.strip())
    pattern = r"\s+".join(re.escape(word.translate(_PLAIN)) for word in words)
    found = re.search(pattern, text.translate(_PLAIN))
    return None if found is None else found.span()
