"""Values of the open world: names, numbers, codes, dates, foreign words, clauses and sentences, 1 to 20 words long.

Every maker takes the words of a side and a random generator, and returns one value. Most of them fill in a pattern:
`{noun}`, `{phrase}`, `{city}` and the like are drawn from the words, `{2..90}` is a whole number, `{red|blue}` one of
these.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from kblam.data.sides import Side
from kblam.data.tables import lines, words

Maker = Callable[[Side, random.Random], str]

MONTHS = words("January February March April May June July August September October November December")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_COLORS = "red|blue|green|white|black|gray|yellow|brown|purple|pink|orange|teal|beige|crimson|turquoise|violet"
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_SLOT = re.compile(r"\{([^{}]*)\}")


def patterns(text: str) -> Maker:
    """A maker that fills in one of the patterns, a line each."""
    table = lines(text)

    def make(side: Side, rng: random.Random) -> str:
        return fill(rng.choice(table), side, rng)

    return make


def fill(pattern: str, side: Side, rng: random.Random) -> str:
    """The pattern with its slots drawn; see the module's text."""
    return _SLOT.sub(lambda slot: _drawn(slot[1], side, rng), pattern)


def _drawn(slot: str, side: Side, rng: random.Random) -> str:
    if slot in _SLOTS:
        return _SLOTS[slot](side, rng)
    if "|" in slot:
        return rng.choice(slot.split("|"))
    low, high = slot.split("..")
    return str(rng.randint(int(low), int(high)))


def noun(side: Side, rng: random.Random) -> str:
    """One common word."""
    return rng.choice(side.nouns)


def phrase(side: Side, rng: random.Random) -> str:
    """Adjective and noun."""
    return f"{rng.choice(side.adjectives)} {rng.choice(side.nouns)}"


def _gerund(side: Side, rng: random.Random) -> str:
    """The -ing form of a verb, nearly always right."""
    verb = rng.choice(side.verbs)
    return f"{verb[:-1]}ing" if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) else f"{verb}ing"


def _with_article(make: Maker) -> Maker:
    def made(side: Side, rng: random.Random) -> str:
        text = make(side, rng)
        return f"{'an' if text[0].lower() in 'aeiou' else 'a'} {text}"

    return made


_SLOTS: dict[str, Maker] = {
    "noun": noun,
    "Noun": lambda side, rng: rng.choice(side.nouns).capitalize(),
    "adj": lambda side, rng: rng.choice(side.adjectives),
    "verb": lambda side, rng: rng.choice(side.verbs),
    "verbing": _gerund,
    "phrase": phrase,
    "a noun": _with_article(noun),
    "a phrase": _with_article(phrase),
    "job": lambda side, rng: rng.choice(side.jobs),
    "a job": _with_article(lambda side, rng: rng.choice(side.jobs)),
    "city": lambda side, rng: rng.choice(side.cities),
    "first": lambda side, rng: rng.choice(side.first_names),
    "last": lambda side, rng: rng.choice(side.last_names),
    "people": lambda side, rng: rng.choice(side.people),
    "place": lambda side, rng: rng.choice(side.places),
    "letter": lambda side, rng: rng.choice(_LETTERS),
    "month": lambda side, rng: rng.choice(MONTHS),
    "weekday": lambda side, rng: rng.choice(DAYS),
    "color": lambda side, rng: rng.choice(_COLORS.split("|")),
}

# --- words and names ---------------------------------------------------------------------------------------

person = patterns(
    """
{first} {last}
{first} {last}
{first} {last}
{first} {last}
{first} {last}
{first} {last}
{first} {last}
{first} {last}
Dr. {first} {last}
{first} {letter}. {last}
{first} {last}-{last}
{people}
"""
)
city = patterns("{city}\n" * 14 + "{place}")
location = patterns(
    """
{near|north of|south of|in|outside|on the road to|two hours from} {city}
{behind|under|next to|opposite} the {old|new|upper|lower} {noun} {near|north of|outside|in} {city}
in the {noun} of {city}
"""
)
job = patterns(
    """
{job}
{job}
{adj} {job}
{job} at {last} {Group|Labs|Works|Bank}
"""
)
food = patterns(
    """
{adj} {soup|stew|pie|salad|bread|cake|noodles|dumplings|rice|pancakes|porridge|curry|sausage}
{soup|stew|pie|salad|bread|cake|noodles|dumplings|rice|pancakes|porridge|curry|sausage} with {noun}
{noun} {soup|stew|pie|salad|bread|cake|noodles|dumplings|rice|pancakes} with {adj} {noun}
"""
)
hobby = patterns("{verbing} {noun}\n{verbing} {old|small|foreign|rare} {noun}")
color = patterns("{adj} {color}\n{noun} {color}\n{color} with {adj} {color} {stripes|dots|edges|stars}")
listing = patterns("{noun} and {noun}\n{noun}, {noun} and {noun}\n{noun}, {phrase}")


def title(side: Side, rng: random.Random) -> str:
    """A nickname, a code name."""
    return rng.choice((phrase(side, rng).title(), f"the {phrase(side, rng)}", noun(side, rng).capitalize()))


def foreign(*languages: str, longest: int = 3) -> Maker:
    """A maker of one to `longest` words of one of these languages."""

    def make(side: Side, rng: random.Random) -> str:
        listed = side.foreign[rng.choice(languages)]
        return " ".join(rng.choice(listed) for _ in range(rng.randint(1, longest)))

    return make


def latin(side: Side, rng: random.Random) -> str:
    """What looks like a scientific name."""
    genus = "".join(rng.choice(words("ba cro dri fa glo lu me no phi ro stra ti ve")) for _ in range(3))
    species = "".join(rng.choice(words("a bo ci du le ma ni ru sa to vi")) for _ in range(3))
    ends = rng.choice(words("s x um a is")), rng.choice(words("ta nus lis ceps rum"))
    return f"{genus.capitalize()}{ends[0]} {species}{ends[1]}"


# --- clauses and sentences ---------------------------------------------------------------------------------

_english_motto = patterns(
    """
{verb} the {phrase}
{noun} before {noun}
{verb} and {verb} with {noun}
no {noun} without {phrase}
{verb} your {noun}, {verb} your {noun}
"""
)
_foreign_motto = foreign("Spanish", "Italian", "French", "German", "Polish", "Czech")


def motto(side: Side, rng: random.Random) -> str:
    """A short saying, now and then in another language."""
    return (_foreign_motto if rng.random() < 0.15 else _english_motto)(side, rng)


description = patterns(
    """
{a phrase}
{a phrase} {for|made of|used in|that protects|full of|known for} {phrase}
{a phrase} that can {verb} {a noun} in {2..90} {seconds|minutes|days}
{a phrase} from {city}, famous for {noun} and {noun}
{a phrase} which {replaced|followed|joined} the {phrase} in {1200..2050}
"""
)
aim = patterns(
    """
to {verb} {the|every|some|any} {phrase}
to {verb} and {verb} {noun}
to reduce the {noun} of {phrase} by {2..99} percent before {2025..2060}
to help {a job} {verb} the {noun}
{verbing} {noun} for the {noun} in {city}
to {verb} {noun} without {verbing} the {phrase} that {last} found near {city}
"""
)
sentence = patterns(
    """
every {noun} must {verb} before the {phrase} arrives
the {noun} in the {phrase} was never {found|paid|opened|counted|repaired}
{first} keeps {a phrase} under the {noun} of the {noun}
if the {noun} is {adj}, call {last} and wait {2..90} minutes
only {2..90} of {100..900} {noun} units are {adj} enough for the {phrase}
the supplier of the {noun} may be late, because {city} has no {phrase} until {month}
nobody may {verb} the {noun} after {1..12} pm unless {last} has signed the {noun}
"""
)


def gloss(side: Side, rng: random.Random) -> str:
    """A definition out of WordNet; on the test side, which has none, a description."""
    return rng.choice(side.glosses)[1] if side.glosses else description(side, rng)


# --- numbers, dates, codes ---------------------------------------------------------------------------------

phone = patterns(
    """
{200..999}-{1000..9999}
+{1..99} {10..99} {100..999} {10..99} {10..99}
({200..999}) {200..999}-{1000..9999}
0{10..99} {1000000..9999999}
+{1..99}{100000000..9999999999}
{200..999}-{200..999}-{1000..9999} ext. {10..999}
"""
)
code = patterns(
    """
{letter}{letter}-{10..99999}
{letter}{10..999}{letter}{letter}{10..99}
{letter}{letter}{letter} {1000..9999}/{10..99}
{100..999}-{letter}{1000..9999}-{letter}
{10..99}{a|b|c|d|e|f}{100..999}{a|b|c|d|e|f}-{a|b|c|d|e|f}{1000..9999}
"""
)
version = patterns("{1..20}.{0..40}.{0..99}\nv{1..20}.{0..40}\n{1..9}.{0..40}.{0..99}-{rc|beta|build}{1..999}")
address = patterns(
    """
{1..400} {last} {Street|Road|Avenue|Lane|Square}, {10000..99999} {city}
{1..400} {Noun} {Street|Road|Avenue|Lane|Square}, {city}
{last} {Street|Road|Avenue|Lane|Square} {1..400}, {city} {1000..9999}
"""
)
hours = patterns(
    """
{weekday} to {weekday} from {5..11}:{00|15|30|45} to {13..23}:00
{5..11} am to {1..11} pm, closed on {weekday}
every {weekday} at {5..22}:{10..59}
daily until {13..23}:{10..59}, {weekday} until {12..22}:{10..59}
"""
)
email = patterns(
    """
{noun}.{noun}@{noun}.{com|org|net|pl|no|io}
{noun}_{noun}{2..99}@{noun}.{com|org|net|pl|no|io}
{noun}{noun}@{noun}.{com|org|net|pl|no|io}
"""
)
website = patterns("{www.|https://|}{noun}{-|}{noun}.{com|org|de|eu|dev}")
year = patterns("{1000..2060}\n" * 9 + "{40..900} BC")
whole = patterns(
    "{1..999}\n{1000..99999}\n{100000..999999999}\n{2..999} thousand\n{1..90}.{0..9} million\n{1..999},{100..999}"
)
money = patterns(
    """
{2..9000} {euros|dollars|pounds|yen|zloty|lira|kroner}
{1..900}.{10..99} {euros|dollars|pounds|yen|zloty|lira|kroner}
{1..900},{100..999} {euros|dollars|pounds|yen|zloty|lira|kroner}
${1..900}.{10..99}
€{1..9},{100..999},{100..999}
"""
)


def date(side: Side, rng: random.Random) -> str:
    """A day, in one of seven notations."""
    year, month, day = rng.randrange(1650, 2060), rng.randrange(1, 13), rng.randrange(1, 29)
    name = MONTHS[month - 1]
    suffix = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return rng.choice(
        (
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{month}/{day}/{year}",
            f"{day}{suffix} of {name} {year}",
            f"{rng.choice(DAYS)}, {day} {name} {year}",
        )
    )


def decimal(side: Side, rng: random.Random) -> str:
    """A number with digits after the point."""
    return f"{rng.uniform(-1, 1) * 10 ** rng.randrange(0, 5):.{rng.randrange(1, 6)}f}"


def long_number(side: Side, rng: random.Random) -> str:
    """Eight to twenty digits, sometimes in groups."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randrange(8, 21)))
    if rng.random() < 0.3:
        return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))
    return digits


def amount(*units: str) -> Maker:
    """A maker of measurements in these units."""
    unit = "{" + "|".join(units) + "}" if len(units) > 1 else units[0]
    return patterns(
        f"""
{{2..5000}} {unit}
{{2..5000}} {unit}
{{0..900}}.{{0..999}} {unit}
{{0..900}}.{{0..9}} {unit}
{{1..900}},{{100..999}} {unit}
{{about|at least}} {{2..5000}} {unit}
between {{1..400}} and {{401..999}} {unit}
"""
    )


_ANYTHING = (noun, noun, phrase, phrase, listing, description, sentence, person, city, whole, date, code, gloss, gloss)


def anything(side: Side, rng: random.Random) -> str:
    """A value that a property nobody has heard of might have."""
    return rng.choice(_ANYTHING)(side, rng)
