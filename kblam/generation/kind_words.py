"""Words that tell of what kind a property, or a value, is; and those that make another one of a property."""

from __future__ import annotations

_PERSONS = """
founder cofounder owner architect author writer creator inventor discoverer designer builder composer painter sculptor
director producer editor developer manager leader engineer ceo cto cfo president chairman chairwoman chair mayor captain
coach spouse wife husband mother father child son daughter brother sister successor predecessor winner champion sponsor
teacher boss supervisor minister king queen keeper holder priest bishop curator conductor landlord administrator
maintainer organizer organiser operator publisher manufacturer supplier vendor chef
"""
_NO_PERSONS = """
place location site address country state region province city town continent date year day time zone number code height
width length weight elevation latitude longitude area depth age price radius density temperature point url
"""
_ANOTHER = """
former previous ex past next future deputy vice assistant interim acting second third fourth fifth old earlier
upcoming planned expected estimated backup substitute alternate alternative emergency discounted reduced refurbished
secondhand second-hand child student women's men's children's
"""
# Who or what one of many is at a time.
_OFFICES = """
ceo cto cfo coo president chairman chairwoman chair chairperson mayor captain coach manager leader boss supervisor
minister head chief owner director governor chancellor principal dean champion call nurse judge plaintiff defendant
"""
# Of each line, what is on one side of a bar is not on another.
_OPPOSITES = """
minimum minimal min lowest smallest | maximum maximal max highest largest | average mean median typical
first earliest | last latest final late | next
opening | closing
upper | lower
inner internal inside indoor | outer external outside outdoor
input | output
gross | net
buying purchase | selling
front | rear back
male | female
upload | download
arrival | departure
adult adults | pediatric paediatric child children childhood infant infants neonatal
home private personal | work office business | mobile cell | fax
primary | secondary | tertiary
summer | winter
mother | father
mother father parent parents | child children son sons daughter daughters
son sons | daughter daughters
brother brothers | sister sisters
husband | wife
buyer | seller
sender | recipient
lender | borrower
plaintiff | defendant
employer | employee employees
landlord | tenant
start starting | end ending
origin | destination
left | right
top | bottom
north northern | south southern | east eastern | west western
single | double | twin | triple
monthly | yearly annual annually | weekly | daily | hourly
"""
_NEGATIVE = """
no not none never without nobody nothing non except exceptions exception excluded exclusion exclusions excludes
contraindication contraindications banned prohibited prohibition forbidden ineligible restricted restrictions allergy
opponent opponents absent absentees missing
"""
# "Who holds the record?" asks for the record, and "Who sued the owner?" not for the owner.
_PLAIN_VERBS = """
is are was were be became becomes remains holds held has had have plays played gets got won wins does did takes took
would could can may might will should must
"""
_CAUSES = """
reason reasons cause causes caused why purpose purposes motive motivation rationale explanation justification background
history description summary definition meaning significance importance origin origins etymology name named namesake
nickname symbolism function use uses objective objectives goal goals aim aims mission motto trigger note notes remark
remarks comment comments context achievement achievements claim fame known indication mechanism theme inspiration
because due since thanks therefore so complaint complaints charge charges threat threats circumstance circumstances
condition conditions problem problems issue issues risk risks fault faults error errors defect defects diagnosis disease
grounds basis benefit benefits advantage advantages feature features attraction attractions highlight highlights
specialty speciality
"""
# A time that a fact tells of, and what is counted over a year: "last year's revenue" is the revenue.
_TIMES_OF_FACTS = """
last next previous former past future year years month week yesterday today tomorrow
"""
_A_YEAR = """
revenue revenues turnover profit profits loss losses sales earnings income growth yield yields production output harvest
dividend inflation rainfall precipitation visitors passengers attendance
"""
_AMOUNTS = """
price cost costs fee fees charge rate salary pay wage income revenue budget weight amount quantity abundance dose dosage
share percentage free admission entry entrance ticket tickets fare toll rent
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
ANOTHER, OFFICES = frozenset(_ANOTHER.split()), frozenset(_OFFICES.split())
OPPOSITES = tuple(
    tuple(frozenset(side.split()) for side in line.split("|")) for line in _OPPOSITES.splitlines() if line.strip()
)
NEGATIVE, PLAIN_VERBS = frozenset(_NEGATIVE.split()), frozenset(_PLAIN_VERBS.split())
TIMES_OF_FACTS, A_YEAR = frozenset(_TIMES_OF_FACTS.split()), frozenset(_A_YEAR.split())
CAUSES, AMOUNTS = frozenset(_CAUSES.split()), frozenset(_AMOUNTS.split())
NUMBERS, TIMES = frozenset(_NUMBERS.split()), frozenset((_NUMBERS + _TIMES).split())
