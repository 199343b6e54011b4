"""Units that a question names: feet are no answer to "over how many hectares", nor is EGSP one of "three letters"."""

from __future__ import annotations

import re

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
_ASKED = re.compile(r"\b(?:how many|in) (square |cubic )?([a-z]+)\b(?!\s+per\b)", re.IGNORECASE)
_QUANTITY = re.compile(r"\W*\d[\d.,]*(?:\s+(?:thousand|million|billion))?\s*(square |cubic )?([a-z]+)", re.IGNORECASE)
_LETTERS = re.compile(r"\b(two|three|four|five|six|[2-6])[\s-]+(?:letters?|characters?)\b", re.IGNORECASE)
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def fits_units(question: str, value: str) -> bool:
    """Whether a value may have the unit, or the number of letters, that a question names.

    It may, unless it is a quantity of a unit that measures something else, or a code of another length; and money is no
    answer to "How many were sold?". Quantities of two units are not told: a molecule's daltons are the grams per mole.

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
    if "money" in measured and any(not _names_unit(found[1]) for found in _COUNTED.finditer(question)):
        return False
    asked = [_measured(found[1], found[2]) for found in _ASKED.finditer(question)]
    return all(measured & one for one in asked if one)


def _names_unit(counted: str) -> bool:
    """Whether what is counted may be a unit: "metric tons"."""
    return any(word in _MEASURED or word in _COINS for word in counted.lower().split())


def _measured(power: str | None, unit: str) -> set[str]:
    """What a unit measures; nothing if it is not known."""
    measured = _MEASURED.get(unit.lower(), set())
    return {f"{power.lower()}{one}" for one in measured} if power else measured
