"""Words that tell of what kind a property, or a value, is; and those that make another one of a property."""

from __future__ import annotations

_PERSONS = """
founder cofounder owner architect author writer creator inventor discoverer designer builder composer painter sculptor
director producer editor developer manager leader engineer ceo cto cfo president chairman chairwoman chair mayor captain
coach spouse wife husband mother father child son daughter brother sister successor predecessor winner champion sponsor
teacher boss supervisor minister king queen
"""
_NO_PERSONS = """
place location site address country state region province city town continent date year day time zone number code height
width length weight elevation latitude longitude area depth age price radius density temperature point url
"""
_ANOTHER = """
former previous ex past next future deputy vice assistant interim acting second third fourth fifth
"""
_NUMBERS = """
no none zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million
millions billion billions dozen dozens score several few many numerous countless single pair couple both half all
"""
_TIMES = """
january february march april may june july august september october november december jan feb mar apr jun jul aug sep
sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays
saturdays sundays spring summer autumn fall winter easter christmas morning mornings noon afternoon evening night
midnight dawn dusk day days week weeks month months year years century centuries decade decades era age ages antiquity
medieval ancient prehistory prehistoric renaissance baroque dynasty reign war today yesterday tomorrow tonight now then
soon late later early earlier recently before after during since until till while when once ago always never daily
weekly monthly yearly annual annually hourly weekend weekends holiday holidays holy first second third last next past
present future time times date dates period open opening birth birthday founding foundation end
"""
PERSONS, NO_PERSONS = frozenset(_PERSONS.split()), frozenset(_NO_PERSONS.split())
ANOTHER = frozenset(_ANOTHER.split())
NUMBERS, TIMES = frozenset(_NUMBERS.split()), frozenset((_NUMBERS + _TIMES).split())
