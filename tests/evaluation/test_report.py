"""The report: what is written is read back, at every row, and its tables fit 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kblam.errors import EvaluationError
from kblam.evaluation.figures import Figures, Refusals
from kblam.evaluation.general import General
from kblam.evaluation.report import Report
from kblam.evaluation.shares import Share

ABOUT = {"model": "tiny", "adapter": "mine", "commit": "abc", "versions": {"torch": "2"}, "device": "cpu", "seed": 0}


def figures(triples: int) -> dict[str, Any]:
    refusals = Refusals(Share(3, 4), Share(3, 5), Share(2, 2), Share(1, 3), 0.6667, Share(1, 20))
    made = Figures(
        exact=Share(19, 20), value=Share(20, 20), top1=Share(20, 20), top5=Share(20, 20), token_f1=0.98, rouge_l=0.97,
        exact_single=Share(10, 10), pair_right=Share(2, 4), open_right=Share(1, 2), open_facts=Share(5, 9),
        refusal_precision=refusals.precision, refusal_recall=refusals.recall, refusal_f1=refusals.f1,
        refusal_recall_entity=Share(2, 2), refusal_recall_property=Share(1, 3), false_refusals=refusals.false,
        decision=refusals, learned=refusals, top1_by_layer={14: Share(1, 20), 18: Share(20, 20)},
        top5_by_layer={14: Share(4, 20), 18: Share(20, 20)}, questions=25,
    )  # fmt: skip
    costs = {"triples": triples, "first_token_ms": 53.2, "ms_per_token": 11.7, "answer_ms": 1234.5, "peak_mib": 1234}
    return made.to_dict() | costs


def whole(folder: Path) -> Report:
    report = Report(dict(ABOUT), json_file=folder / "new" / "report.json", markdown_file=folder / "report.md")
    for size in (100, 1000, 100_000):
        report.add("sizes", str(size), figures=figures(size))
    report.add("unseen", figures=figures(1000))
    report.add("real", "weaknesses", figures=figures(9876))
    report.add("baselines", "kblam", "1000", figures=figures(1000))
    report.add("baselines", "rag", "1000", figures=figures(1000))
    report.add(
        "baselines", "in-context", "1000", figures={"reason": "1,000 triples take 20,000 tokens", "prompt_tokens": 9}
    )
    general = General(Share(98, 100), Share(0, 100), 20.123, 21.5, 10_000, (("2 + 2?", "4", "5"),))
    report.add("general", figures=general.to_dict())
    return report


def test_the_json_has_the_promised_shape_and_is_read_back(tmp_path: Path) -> None:
    report = whole(tmp_path)
    assert report.json_file is not None
    content = json.loads(report.json_file.read_text())
    row = content["sizes"]["100000"]
    for name in ("exact", "top1", "top5", "refusal_precision", "refusal_recall", "refusal_f1"):
        assert 0 <= row[name] <= 1
    assert row["intervals"]["exact"][2:] == [19, 20]
    assert row["decision"]["intervals"]["recall"][2:] == [3, 5]
    assert content["unseen"]["exact"] == 0.95
    assert content["real"]["weaknesses"]["top1"] == 1
    assert content["baselines"]["rag"]["1000"]["ms_per_token"] == 11.7
    assert content["general"]["equal"] == 0.98
    assert {name: content[name] for name in ABOUT} == ABOUT
    again = Report.read(report.json_file)
    assert (again.rows, again.about) == (report.rows, report.about)
    assert again.markdown() == report.markdown()


def test_every_row_is_written_at_once(tmp_path: Path) -> None:
    report = Report(dict(ABOUT), json_file=tmp_path / "r.json", markdown_file=tmp_path / "r.md")
    report.add("sizes", "100", figures=figures(100))
    assert list(json.loads((tmp_path / "r.json").read_text())["sizes"]) == ["100"]
    report.add("sizes", "1000", figures=figures(1000))
    assert list(json.loads((tmp_path / "r.json").read_text())["sizes"]) == ["100", "1000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.md"]


def test_answers_that_were_cut_are_told_below() -> None:
    report = Report(dict(ABOUT))
    report.add("sizes", "100", figures=figures(100))
    assert "were cut" not in report.markdown()
    report.add("kb", figures=figures(36) | {"cut": 3})
    assert "- own, 36: 3 of the answers were cut" in report.markdown()
    assert max(map(len, report.markdown().splitlines())) <= 80


def test_what_a_row_says_of_itself_stands_below_its_answers() -> None:
    report = Report(dict(ABOUT))
    report.add("kb", figures=figures(36) | {"note": "An adapter that was trained on it has seen it. " * 3})
    answers = report.markdown().split("## Answers")[1].split("## Refusals")[0]
    assert answers.rstrip().endswith("has seen it.")
    assert "own, 36: An adapter that was trained on it" in answers
    assert max(map(len, answers.splitlines())) <= 80


def test_tables_are_whole_at_80_columns(tmp_path: Path) -> None:
    text = whole(tmp_path).markdown()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 30
    assert max(map(len, tables)) <= 80, max(tables, key=len)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
            assert len({len(line) for line in block.splitlines()}) == 1
    assert "| 100,000 " in text
    assert "- in-context, 1,000: 1,000 triples take 20,000 tokens" in text
    assert "98 of 100 greedy answers" in text


def test_four_layers_shares_of_one_and_many_versions_fit_too(tmp_path: Path) -> None:
    versions = {f"package-{n}": "1.2.3+local" for n in range(12)}
    report = Report(ABOUT | {"versions": versions})
    row = figures(9876)
    for name in ("top1_by_layer", "top5_by_layer"):
        row[name] = dict.fromkeys(("14", "18", "22", "26"), 1.0)
    for part in ("decision", "learned"):
        row[part] |= dict.fromkeys(("precision", "recall", "f1", "false"), 1.0)
    report.add("real", "weaknesses", figures=row)
    lines = report.markdown().splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert sum("package-11 1.2.3+local" in line for line in lines) == 1


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for content in ("nothing", "[1]", "", '{"sizes": {}, "sizes": {"1": {}}}', "[" * 100_000):
        (tmp_path / "file").write_text(content)
        with pytest.raises(EvaluationError, match="is not a report of kblam eval"):
            Report.read(tmp_path / "file")
    with pytest.raises(EvaluationError, match="No such file"):
        Report.read(tmp_path / "absent")
