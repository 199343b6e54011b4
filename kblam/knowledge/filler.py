"""Words that say nothing of what is asked for."""

from __future__ import annotations

# Words that ask without saying for what. Greetings and thanks are made of them, and so is "Tell me about A".
_FILLER = """
a about again all also am an and any anything are as be brief but can care check cheers could curious d describe
details did do does else everything explain facts find for forgot friend from get give good got had has have hello
help hey hi homework how i idea important in info information introduce is it its just know knows learn let like list
ll look m me more much must my name need next nobody now of okay on once one out please question quick re remind s
said say show so some something summarise summarize sure take tell thank thanks that the then there thing this time to
today told up us want wanted was we were what whats when where which who whos why will wonder wondering would you your
"""
FILLER = frozenset(_FILLER.split())
