"""Facts in the prompt against knowledge: what is measured, what is predicted, and by which formula."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import in_context
from benchmarks.in_context import fitted


def test_both_parts_of_the_formula_are_found() -> None:
    fit = fitted({n: 3e-4 * n + 2e-8 * n**2 for n in (128, 512, 2048)})
    assert fit.a == pytest.approx(3e-4)
    assert fit.b == pytest.approx(2e-8)
    assert fit.error < 1e-9
    assert fit.seconds(200_032) == pytest.approx(3e-4 * 200_032 + 2e-8 * 200_032**2)


def test_no_part_is_negative_and_the_error_is_told() -> None:
    """A negative square would predict that long prompts take no time."""
    fit = fitted({100: 1.0, 200: 1.9, 400: 3.5})
    assert fit.b == 0
    assert 0 < fit.error < 0.1
    steeper = fitted({100: 1.0, 200: 4.4, 400: 19.0})
    assert steeper.a == 0
    assert steeper.b > 0


def test_short_prompts_are_measured_and_long_ones_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    options = ["--model", "tiny", "--triples", "4", "5000", "--longest", "256", "--repeats", "3", "--json", str(file)]
    in_context.main(options)
    stored = json.loads(file.read_text())
    short, long = stored["rows"]
    assert (short["tokens"], short["is_measured"]) == (112, True)
    assert (long["tokens"], long["is_measured"]) == (100_032, False)
    assert short["in_context"] == stored["prompts"]["112"]
    fit = stored["fit"]
    assert long["in_context"] == pytest.approx(fit["a"] * 100_032 + fit["b"] * 100_032**2)
    assert long["cache_bytes"] == 100_032 * 2 * 4 * 2 * 16 * 2, "keys and values, layers, key heads, width, bytes"
    assert stored["environment"]["commit"]
    shown = capsys.readouterr().out
    assert "seconds = " in shown
    assert "predicted" in shown
    assert "measured" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--longest", "100"], "leaves fewer than 3 lengths to fit"),
        (["--model", "llama-4"], "'llama-4' is not one of llama-3-8b"),
        (["--model", "6x3x8"], "6x3x8 is a shape of attention alone"),
        (["--triples", "many"], "'many' is no whole number"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        in_context.main(options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
