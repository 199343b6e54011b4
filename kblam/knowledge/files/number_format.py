"""Numbers of spreadsheets with what their format puts around them, such as a unit, a currency or a percent sign."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

from kblam.knowledge.files.cells import text_of

# Literals, conditions, colors, room for a character, a character that fills the cell; and what is left is code.
_PART = re.compile(
    r'"(?P<quoted>[^"]*)"?|\[\$(?P<currency>[^\]-]*)[^\]]*\]|\\(?P<escaped>.)|(?P<sign>[€£¥$])'
    r"|\[(?P<condition>[<>=][^\]]*)\]|\[[^\]]*\]|[_*].|(?P<code>.)",
    re.DOTALL,
)
_CONDITION = re.compile(r"\s*(<=|>=|<>|<|>|=)\s*([-+]?\d+(?:\.\d+)?)\s*")
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "<>": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
_DIGITS = re.compile(r"[0#?]")
_NUMBER = re.compile(r"[0#?]|general", re.IGNORECASE)  # where the number stands
_THOUSANDS = re.compile(r"(?<=[0#?]),+(?![0#?,])")  # commas between digits only group them
_NUMBERED = re.compile(r'[0"() :+-]*')  # ZIP codes, telephone numbers
_SIGNS = "-()_"  # around numbers below zero, whose sign is kept
# What thousands, millions and so on are called, by the commas that make them.
_SCALES = {
    1: re.compile(r"(k|t|th|tsd|thousands?)(?![^\W\d_])"),
    2: re.compile(r"(m|mm|mn|mln|mio|millions?)(?![^\W\d_])"),
    3: re.compile(r"(b|bn|bln|mrd|billions?)(?![^\W\d_])"),
    4: re.compile(r"(t|tn|tr|trillions?)(?![^\W\d_])"),
}


def shown(number: float, number_format: str) -> str:
    """A number with what its format puts around it: `0%`, `0.0" kg"`, `[$€-407] 0`.

    It is not rounded as its format has it: only percents with decimals are.
    """
    section = _section(number, number_format)
    code = section.code
    number = abs(number) if section.says_below_zero else number
    before, after = section.around()
    if percents := code.count("%"):
        decimals = len(_DIGITS.findall(code.partition(".")[2]))
        scaled = _times(number, 2 * percents)
        text = text_of(scaled)  # which refuses infinity
        return _joined(before, f"{scaled:.{decimals}f}" if decimals else text, after)
    if commas := sum(map(len, _THOUSANDS.findall(code))):
        scale = _SCALES.get(commas)
        if scale is not None and any(scale.match(literal.casefold()) for literal in after):
            return _joined(before, text_of(_times(number, -3 * commas)), after)
        # Nothing says in the text that these are thousands, say, and what else is said may be meant for those.
        before, after = [[each for each in side if not _has_letters(each)] for side in (before, after)]
    elif (zeros := code.count("0")) > 1 and _NUMBERED.fullmatch(code) and _is_whole(number):
        if "0" * zeros not in code:
            return _filled(section, number)
        return _joined(before, f"{int(number):0{zeros + (number < 0)}d}", after)
    return _joined(before, text_of(_times(number, 0)), after)


@dataclass
class _Section:
    """What a format has for some numbers.

    Attributes:
        code: what is no literal, with a `"` in the place of each literal.
        parts: the text of each character of the code.
        condition: which numbers it is for, `>=1000`; empty for all.
        says_below_zero: words that the section for other numbers lacks stand for the sign: `0" up";0" down"`.
    """

    code: str = ""
    parts: list[str] = field(default_factory=list)
    condition: str = ""
    says_below_zero: bool = False

    def add(self, mark: str, text: str) -> None:
        # Excel writes a word as literals of one letter each.
        if mark == '"' == self.code[-1:] and text not in _SIGNS and self.parts[-1] not in _SIGNS:
            self.parts[-1] += text
            return
        self.code += mark
        self.parts.append(text)

    def holds(self, number: float) -> bool:
        found = _CONDITION.fullmatch(self.condition)
        return found is None or _HOLDS[found[1]](number, float(found[2]))

    def around(self) -> tuple[list[str], list[str]]:
        """The literals before the digits and those after; signs of percents are after the digits in any case."""
        digits = _NUMBER.search(self.code)
        before: list[str] = []
        after: list[str] = []
        percents = ""
        for at, (mark, text) in enumerate(zip(self.code, self.parts, strict=True)):
            is_before = digits is not None and at < digits.start()
            if mark == "%" and (is_before or not after):
                percents += mark
            elif mark == "%" or (mark == '"' and text.strip() and text not in _SIGNS):
                (before if is_before else after).append(text.strip())
        return before, [percents, *after] if percents else after

    @property
    def words(self) -> set[str]:
        """Its literals that are words, in lower case."""
        each = zip(self.code, self.parts, strict=True)
        return {text.casefold().strip() for mark, text in each if mark == '"' and _has_letters(text)}


def _section(number: float, number_format: str) -> _Section:
    """The section of a number: by its condition; else those below zero and zero have one of their own.

    One that has no words, or does not show the number, leaves it to the first one.
    """
    sections = _sections(number_format)
    found = next((each for each in sections if each.holds(number)), _Section())
    if found.condition or found is not sections[0] or number > 0:
        return found
    own = sections[1 if number < 0 else 2 : 2 if number < 0 else 3]
    return next((each for each in own if each.holds(number) and each.words and _NUMBER.search(each.code)), found)


@lru_cache(maxsize=1000)
def _sections(number_format: str) -> tuple[_Section, ...]:
    sections = [_Section()]
    for found in _PART.finditer(number_format):
        kind, text = found.lastgroup, found[found.lastgroup or 0]
        if found[0] == ";":
            sections.append(_Section())
        elif kind == "condition":
            sections[-1].condition = text
        elif kind is not None and text:
            sections[-1].add(text if kind == "code" else '"', text)
    if len(sections) > 1 and not sections[0].condition:
        below = sections[1]
        has_sign = any(part in ("-", "(") for part in below.parts)
        below.says_below_zero = not has_sign and bool(below.words - sections[0].words)
    return tuple(sections)


def _times(number: float, power: int) -> float:
    """A number times a power of ten, in the 15 digits that Excel holds. A whole number as it is keeps all of its."""
    if isinstance(number, int):
        return float(Decimal(number).scaleb(power)) if power else number
    return float(Decimal(f"{number:.15g}").scaleb(power))


def _joined(before: list[str], number: str, after: list[str]) -> str:
    if after and after[0].startswith("%"):  # written as percents are
        number, after = number + after[0], after[1:]
    return " ".join([*before, number, *after])


def _filled(section: _Section, number: float) -> str:
    """The digits of a whole number in the places of the zeros, the further ones in the first place."""
    zeros = section.code.count("0")
    digits = str(abs(int(number))).zfill(zeros)
    first = len(digits) - zeros + 1
    each = iter([digits[:first], *digits[first:]])
    parts = zip(section.code, section.parts, strict=True)
    text = "".join(next(each) if mark == "0" else part for mark, part in parts).strip()
    return f"-{text}" if number < 0 else text


def _is_whole(number: float) -> bool:
    return isinstance(number, int) or number.is_integer()


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))
