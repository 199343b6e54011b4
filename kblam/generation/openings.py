"""Where an English question begins to ask, as patterns: behind "Hi, " or "Do you know"; and the words that ask."""

from __future__ import annotations

import re

# Only where it asks, and not as in "Who led it when it was built?".
KNOW = (
    r"\b(?:know|tell|tell (?:me|us)|say|remember|recall|wonder|wondering|curious|sure|idea|clue|find out|figure out|"
    r"understand|forgot|forgotten)[,:]?\s+"
)
OPENING = r"^\W*(?:(?:and|so|but|also|then|please|hi|hello|hey|ok|okay|well)\b\W*)*"
ASKING = re.compile(r"\b(?:who|whom|whose|what|which|where|when|why|how)\b", re.IGNORECASE)
