"""Units that a question names: feet are no answer to "over how many hectares", nor is EGSP one of "three letters"."""

from __future__ import annotations

import re

from kblam.generation.kind_words import TIMES

_WORDS = {
    "length": "m meter metre kilometer kilometre km centimeter centimetre cm millimeter millimetre mm "
    "picometer picometre nanometer nanometre foot feet ft inch mile yard",
    "square length": "hectare acre",
    "cubic length": "liter litre gallon",
    "mass": "kilogram kg gram ton tonne dalton ounce",
    "temperature": "kelvin celsius fahrenheit degree",
    "angle": "degree",
    "energy": "joule kilojoule calorie kilocalorie",
    "money": "dollar euro yen usd eur",
    "power": "watt kilowatt megawatt horsepower",
}
_MEASURED = dict[str, set[str]]()  # by a unit, what it measures
for _what, _units in _WORDS.items():
    for _unit in _units.split():
        for _form in (_unit, f"{_unit}s", f"{_unit}es"):
            _MEASURED.setdefault(_form, set()).add(_what)
_COUNTED = re.compile(r"\bhow many ((?:[^\W\d_]+\s*){1,4})", re.IGNORECASE)
_COINS = frozenset(
    (
        *("pound", "pounds", "quid", "buck", "bucks", "cent", "cents", "franc", "francs", "rupee", "rupees", "peso"),
        *("pesos", "krona", "kronor", "krone", "kroner", "ruble", "rubles", "real", "reais", "yuan", "won", "lira"),
        *("zloty", "crowns", "pence", "million", "millions", "billion", "billions", "thousand", "thousands"),
    )
)
# Others that people count, which no value here is compared with.
_OTHER_UNITS = frozenset(
    (
        *("pound", "lb", "lbs", "oz", "stone", "stones", "carat", "carats", "grain", "grains", "kcal", "cal", "kj"),
        *("kw", "mw", "gw", "hp", "fathom", "fathoms", "league", "leagues", "furlong", "furlongs", "parsec", "parsecs"),
        *("angstrom", "angstroms", "micron", "microns", "pint", "pints", "quart", "quarts", "cup", "cups", "barrel"),
        *("barrels", "ml", "cl", "dl", "percent", "times", "sqm", "blocks", "storeys", "stories", "hands", "light"),
    )
)
_ASKED = re.compile(r"\b(?:how many|in) (square |cubic )?([a-z]+)\b(?!\s+per\b)", re.IGNORECASE)
_QUANTITY = re.compile(r"\W*\d[\d.,]*(?:\s+(?:thousand|million|billion))?\s*(square |cubic )?([a-z]+)", re.IGNORECASE)
_LETTERS = re.compile(r"\b(two|three|four|five|six|[2-6])[\s-]+(?:letters?|characters?)\b", re.IGNORECASE)
_OF_TIMES = TIMES | frozenset(
    ("to", "and", "from", "about", "the", "of", "c", "ca", "circa", "bc", "bce", "ad", "ce", "am", "pm", "utc")
)
_SIGN = re.compile("[$\u20ac\u00a3\u00a5\u20b9]")
_NO_WORDS = re.compile(r"[\W\d_]+")
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def fits_units(question: str, value: str) -> bool:
    """Whether a value may have the unit, or the number of letters, that a question names.

    It may, unless it is a quantity of a unit that measures something else, or a code of another length; and neither
    money nor metres are an answer to "How many were sold?". Quantities of two units are not told: a molecule's daltons
    are the grams per mole.

    Args:
        question: as it was asked.
        value: of the triple that would answer.
    """
    counted = _LETTERS.search(question)
    if counted is not None and value.isascii() and value.isalnum() and value.isupper():
        said = counted[1].lower()
        return len(value) == (_COUNTS[said] if said in _COUNTS else int(said))
    quantity = _QUANTITY.fullmatch(value) if len(value) <= 100 else None
    measured = set() if quantity is None else _measured(quantity[1], quantity[2])
    if not measured:
        return True
    if any(not _names_unit(found[1]) for found in _COUNTED.finditer(question)):
        return False
    asked = [_measured(found[1], found[2]) for found in _ASKED.finditer(question)]
    return all(measured & one for one in asked if one)


def is_measured(value: str) -> bool:
    """Whether a value is nothing but a date, a time or an amount: "14 May 2024", "from 15:00", "64 metres"."""
    found = [word for word in _NO_WORDS.split(value.lower()) if word not in {"", "st", "nd", "rd", "th"}]
    return any(char.isdigit() for char in value) and all(word in _OF_TIMES or word in _MEASURED for word in found)


def is_money(value: str) -> bool:
    """Whether a value names a currency."""
    named = _NO_WORDS.split(value.lower())
    return _SIGN.search(value) is not None or any(one in _COINS or "money" in _MEASURED.get(one, ()) for one in named)


def _names_unit(counted: str) -> bool:
    """Whether what is counted may be a unit: "metric tons"."""
    return any(word in _MEASURED or word in _COINS or word in _OTHER_UNITS for word in counted.lower().split())


def _measured(power: str | None, unit: str) -> set[str]:
    """What a unit measures; nothing if it is not known."""
    measured = _MEASURED.get(unit.lower(), set())
    return {f"{power.lower()}{one}" for one in measured} if power else measured
