"""Values that one field of knowledge has and hardly another: coordinates, formulas, penalties, musical keys."""

from __future__ import annotations

from kblam.data.values import Maker, patterns

# --- geography, transport ----------------------------------------------------------------------------------


def coordinate(positive: str, negative: str) -> Maker:
    """A maker of degrees on either side of a great circle, in three notations."""
    return patterns(
        f"""
{{0..89}}.{{1000..9999}}° {{{positive}|{negative}}}
{{0..89}}°{{10..59}}'{{10..59}}" {{{positive}|{negative}}}
{{-|}}{{1..89}}.{{10..99999}}
{{1..89}} degrees {{10..59}} minutes {{{positive}|{negative}}}
"""
    )


zone = patterns("UTC{+|-}{1..12}:{10..59}\n{last} {Standard|Summer} Time\n{city} time, UTC{+|-}{1..12}")
land = patterns(
    """
{place}
{Upper|Lower|Northern|Southern|New} {last}land
{last} {County|Province|Territory|District}
the {Republic|Duchy|Kingdom|Canton} of {city}
"""
)
lands = patterns("{last}land and {place}\n{place}, {last}land and {last}ia\n{last}ia to the {north|south|east}")
tongue = patterns("{last}ish\n{Old|Upper|Lower|Coastal} {last}ian\n{last}ian and {last}ish")
summit = patterns("Mount {last}, {300..8000} m\n{Noun} {Peak|Hill|Ridge}\nthe {adj} {peak|hill|tower} near {city}")
seats = patterns("{2..900}\n{2..90} seats\n{1..80},{100..999}\n{2..500} seated and {2..90} standing")
station = patterns("{city} {Central|North|South|Junction}\n{last} {Street|Square} station\n{Noun} {Gate|Park|Road}")

# --- physics, chemistry ------------------------------------------------------------------------------------

ratio = patterns("{0..4}.{100..9999}\n{1..3}.{10..999} at {400..800} nm\nabout {1..4}.{10..99}")
formula = patterns(
    """
C{2..40}H{2..80}O{2..20}
C{2..40}H{2..80}N{2..9}O{2..9}
{Na|K|Ca|Fe|Cu|Zn|Li|Mg|Al}{2..9}{S|P|N|Si|B|Cr}O{2..9}
{Ti|W|Ag|Pb|Mn|Co|Ni}{2..9}{Cl|F|Br|I}{2..9}
"""
)
outfit = patterns(
    """
{adj} {coat|gloves|boots|hat|mask} and {a phrase}
{color} {coat|shirt|gown|apron} and {color} {gloves|shoes|boots}
{noun} {goggles|shoes|gloves|mask}
"""
)

# --- grades, causes, instructions --------------------------------------------------------------------------

grade = patterns(
    """
{low|medium|high|very high|critical} ({0..9}.{0..9} of 10)
{level|class|category|grade} {1..40}
{low|medium|high|very high|extreme} in {city}
{adj} to {adj}
{A|B|C|D|E|P|S}{1..60}
"""
)
fault = patterns(
    """
{a phrase} in the {noun}
{verbing} the {noun} without {noun}
the {noun} was left {adj} after the {phrase}
too {much|little} {noun} in the {phrase}
{a job} {forgot|sold|lost|mixed up} the {noun}
a quarrel about the {phrase} of {city}
"""
)
harm = patterns(
    """
the {noun} {stops|leaks|breaks|burns|falls} {within|after} {2..90} {seconds|minutes|days}
anyone can {verb} the {noun} without {a noun}
{loss|theft|collapse} of the {phrase}
{2..90} percent of the {noun} becomes {adj}
the {noun} can no longer {verb} the {noun}
{adj} {noun} all over {city}
"""
)
outcome = patterns(
    """
{last} {won|lost|gave up|withdrew} after {2..90} {days|weeks|years}
{city} was {divided|freed|taken|rebuilt}
{victory|defeat} of the {phrase}
the {noun} was {accepted|refused} by {100..900} votes to {2..99}
a draw between {last} and {last}
"""
)
instruction = patterns(
    """
{verb} the {noun} before {verbing} the {noun}
keep the {noun} away from {phrase}
replace the {noun} every {2..90} {hours|days|weeks}
{rinse|wipe|cool|cover} the {noun} with {adj} {water|oil|cloth} for {2..60} minutes
never {verb} the {noun} without {a phrase}
turn off the {noun} and {verb} the {phrase}
"""
)
check = patterns("{verbing} the {noun} with {a phrase}\n{noun} {test|scan|review}\nwatching the {noun} for {phrase}")
case = patterns(
    """
in {1950..2025} the {noun} of {last} was {lost|stolen|burnt|opened}
{a job} in {city} who could {verb} the {noun}
the {noun} of {city} in {month} {1950..2025}
{last} and the {phrase}
"""
)

# --- computing ---------------------------------------------------------------------------------------------

port = patterns("{81..65535}\n{81..65535}\n{81..65535}/{tcp|udp}")
licence = patterns("{Noun} {Public|Open|Free} License {1..9}\n{last}-{1..9}.{0..9}\n{free|paid} for {adj} use only")
repository = patterns("{git|code|hub}.{noun}.{org|io|dev}/{noun}/{noun}\n{noun}/{noun}-{noun}")
software = patterns("{Noun}{Script|Lang|DB|OS|++|Lib}\n{noun}-{noun}\n{Noun} {1..30}")

# --- medicine, law, finance --------------------------------------------------------------------------------

route = patterns("by mouth with {noun}\nunder the {noun}\n{rubbed|dripped|injected} into the {noun}\nas {a phrase}")
penalty = patterns(
    """
up to {2..40} {years|months|weeks} in prison
a fine of {100..9000} {euros|dollars|crowns}
{loss|seizure} of the {noun}
{10..900} hours of {verbing} {noun}
"""
)
legal_form = patterns(
    """
{limited|general|silent|public} {partnership|company} under the law of {city}
{noun} {trust|union|fund}
{adj} {cooperative|foundation|association}
"""
)
paragraph = patterns("{section|article} {2..400} of the {Noun} Act\n{Noun} {Act|Order|Code}, {article|section} {2..99}")
percent = patterns("{0..60}.{0..99} percent\n{1..99}.{0..9}%\nabout {1..99} percent\n{2..99} percent")
terms = patterns(
    """
{7..120} days after {delivery|receipt|the invoice}
{2..95} percent {in advance|on delivery}
{2..24} monthly installments
by {wire|check|card} before the {2..28}th of {month}
"""
)

# --- sport, art, events, education -------------------------------------------------------------------------

league = patterns("{city} {League|Division} {2..9}\nthe {Noun} {League|Cup}\n{Northern|Southern|Western} {Noun} League")
arena = patterns("{last} {Arena|Hall|Stadium|Park}\nthe {Noun} {Hall|Dome|Theater} in {city}\n{city} {Arena|Forum}")
jersey = patterns("{1..99}\nnumber {1..99}\n{1..99}, in {color}")
playing_position = patterns("{left|right|center} {noun}\n{first|second|third} {noun}\n{noun} {keeper|guard|back}")
key = patterns("{A|B|C|D|E|F|G}{-flat|-sharp|} {major|minor}\n{A|B|C|D|E|F|G}{-flat|-sharp|} {dorian|lydian|phrygian}")
technique = patterns("{oil|ink|chalk|tempera|acrylic|wax} on {noun}\n{carved|cast|woven|etched|glazed} {noun}")
gallery = patterns("{city} {Museum of Art|Gallery}\nthe {last} Collection\nthe {Noun} Museum in {city}")
movement = patterns("{last}ism\n{Neo-|Post-|New }{Noun}ism\nthe {city} School\nthe {adj} {Noun} Group")
clock = patterns("{0..23}:{10..59}\nfrom {5..11}:{10..59} {am|pm}\nafter {1..12} {am|pm} on {weekday}")
degree = patterns("{Master|Bachelor|Doctor} of {Noun}\n{diploma|doctorate|degree} in {phrase}\n{BA|MSc|PhD} in {noun}")
volume = patterns("{last}, {Noun} and {Noun}\n{An Introduction to|The Principles of|A Course in} {Noun}")
school = patterns("University of {city}\n{last} College\n{city} {Academy|School} of {Noun}\nthe {Noun} Institute")

# --- living things, words ----------------------------------------------------------------------------------

season = patterns(
    """
{early|mid|late} {month} to {early|mid|late} {month}
from {month} {2..28} to {month} {2..28}
{2..30} weeks after the {first|last} {frost|rain|snow}
"""
)
moons = patterns("{1..400}\nat least {2..90}\n{2..300} known ones")
survival = patterns(
    """
{common|rare|vulnerable|endangered|extinct} {in|near|north of} {city}
{critically|hardly|widely} {endangered|threatened} since {1900..2030}
near threatened, {100..9000} left
"""
)
family = patterns("{last}idae\n{last}aceae\nthe {noun} family")
litter = patterns("{1..30}\n{1..9} to {10..40} {young|eggs|pups|kits}\nabout {2..40}")
part_of_speech = patterns(
    """
{transitive|intransitive|reflexive|modal|irregular|impersonal} verb
{proper|common|collective|abstract|countable|compound|feminine} noun
{relative|comparative|possessive|predicative} {adjective|pronoun}
{adverb|conjunction|preposition|particle} of {time|place|manner|degree|cause}
"""
)
several = patterns("{noun}s\n{noun}s\nmany {noun}s")
spoken = patterns(
    """
{ba|do|fee|go|ka|loo|mee|no|ri|sa}-{BAH|DOH|FEE|GAY|KOO|LAH|MEE|NOY|REE|SHA}-{la|mer|nis|ra|ten|vo|zee}
{BAH|DOH|FEE|GAY|KOO|LAH|MEE|NOY|REE|SHA}-{la|mer|nis|ra|ten|vo|zee|dle|kin}
rhymes with {noun}
"""
)
letters = patterns("{letter}{letter}{letter}\n{letter}{letter}{letter}{letter}\n{letter}.{letter}.{letter}.")
