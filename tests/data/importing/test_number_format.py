"""Numbers of a sheet as Excel shows them: what their format says beside the digits."""

from __future__ import annotations

import pytest

from kblam.knowledge.files.number_format import shown


def test_formats_of_numbers() -> None:
    assert shown(0.5, "General") == "0.5"
    assert shown(1200.0, "#,##0") == "1200"
    assert shown(-3, "$#,##0_);($#,##0)") == "$ -3"
    assert shown(0.1 + 0.2, "0.00") == "0.3"  # Excel holds 15 digits
    assert shown(12345678901234567, "0") == "12345678901234567"
    assert shown(-0.5, "0%;(0%)") == "-50%"
    assert shown(0.12346, "0.00%") == "12.35%"
    assert shown(5, r"0\ \k\g") == "5 kg"
    assert shown(5, '0" a;b"') == "5 a;b"
    assert shown(1200, r"#,##0.00\ _€") == "1200"  # room for the sign, which is not there
    assert shown(3, r'_-* #,##0.00 [$zł-415]_-;-* #,##0.00 [$zł-415]_-;_-* "-"??_-') == "3 zł"


@pytest.mark.parametrize(
    ("number", "number_format", "text"),
    [
        # A percent sign that is text makes no percents.
        (5, '0.0"% vol"', "5% vol"),
        (40, r"0\%", "40%"),
        (12345.5, '0"%"', "12345.5%"),
        (5, "[$%-409] 0", "% 5"),
        (0.5, '0%" (of 100%)"', "50% (of 100%)"),
        (0.0005, "0%%", "5%%"),
        # Thousands are scaled where a word says so.
        (12_500_000, '0.0,,"M"', "12.5 M"),
        (-12_500_000, r"[$€-407]\ 0.0,,\M\i\o", "€ -12.5 Mio"),
        (12345.5, '#,##0,"K"', "12.3455 K"),
        (5e9, '0,,,.0" billion"', "5 billion"),
        (12345, "#,##0,", "12345"),
        (12345, '#,##0, "€"', "12345 €"),
        (12345, '#,##0," kg"', "12345"),
        (12345, '0,"M"', "12345"),
        (12345, '#,##0" m"', "12345 m"),
        (12_500_000, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "12.5 M"),
        (12_500, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "12.5 K"),
        (5, '[>=1000000]0.0,,"M";[>=1000]0.0,"K";0', "5"),
        (5, '[>=1000000]0.0,,"M";[>=1000]0.0,"K"', "5"),
        # What names something keeps its zeros.
        (1234, "00000", "01234"),
        (1234.0, "00000", "01234"),
        (-1234, "00000;-00000", "-01234"),
        (7, '"No. "000', "No. 007"),
        (5, "(000)", "005"),
        (12345678, "000-00-0000", "012-34-5678"),
        (12345678, r"000\-00\-0000", "012-34-5678"),
        (4930555801, "(000) 000-0000", "(493) 055-5801"),
        (494930555801, "(000) 000-0000", "(49493) 055-5801"),
        (-511, """0" ft "00""", "-5 ft 11"),
        (1.5, "00000", "1.5"),
        (1.5, "00.00", "1.5"),
        (0.5, "00%", "50%"),
        (5, "0,000", "5"),
        # Percents keep the words of their format.
        (0.052, '0.0%"abv "', "5.2% abv"),
        (0.052, '0.0"abv "%', "5.2 abv %"),
        (0.052, '"about "0.0%', "about 5.2%"),
        (0.5, '"at least "0%" of all"', "at least 50% of all"),
        (0.5, "%0", "50%"),
        (-0.05, '0%" up";0%" down"', "5% down"),
        # Numbers below zero have the words of their own section.
        (5, '0" up";0" down"', "5 up"),
        (0, '0" up";0" down"', "0 up"),
        (-5, '0" up";0" down"', "5 down"),
        (-3, '"CR "General;"DR "General', "DR 3"),
        (-5, '0" gain";-0" loss"', "-5 loss"),
        (-5, '0" gain";(0" loss")', "-5 loss"),
        (-5, '0.0" kg";[Red]0.0" kg"', "-5 kg"),  # that it is below zero would be said by a color alone
        (-5, '0" kg";-0', "-5 kg"),
        (-5, '0" kg";;', "-5 kg"),
        (-5, '0" up";"n/a"', "-5 up"),
        (0, '0" up";0" down";0" as before"', "0 as before"),
        (0, '0" up";0" down";"-"??', "0 up"),
        (-12_500_000, '0.0,,"M up";0.0,,"M down"', "12.5 M down"),
        (-5, '[>=100]0" big";0" small"', "-5 small"),
    ],
)
def test_what_a_format_says(number: float, number_format: str, text: str) -> None:
    assert shown(number, number_format) == text
