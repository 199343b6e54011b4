"""An evaluation as JSON and Markdown, written anew after every row, so that a run that is stopped loses nothing."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kblam import strict_json
from kblam.errors import EvaluationError
from kblam.knowledge.schema import is_knowledge_base
from kblam.whole import why_not, write_whole

SECTIONS = ("sizes", "unseen", "kb", "real", "baselines", "general")


@dataclass
class Report:
    """Everything that was measured, and about what.

    Args:
        about: model, adapter, commit, versions, device, seed, questions and the like: plain values.
        rows: by section, "sizes" (by number of triples), "unseen", "kb" (the user's own), "real" (by name),
            "baselines" (by name, then by row) and "general"; what has not been measured is not there.
        json_file, markdown_file: written at every change, where given.
    """

    about: dict[str, Any]
    rows: dict[str, Any] = field(default_factory=dict)
    json_file: Path | None = None
    markdown_file: Path | None = None

    def add(self, section: str, *keys: str, figures: dict[str, Any]) -> None:
        """Adds one row and writes the files."""
        place = self.rows
        for key in (section, *keys)[:-1]:
            place = place.setdefault(key, {})
        place[(section, *keys)[-1]] = figures
        self.write()

    def write(self) -> None:
        """Replaces the files, each in one step.

        Raises:
            EvaluationError: one cannot be written.
        """
        if self.json_file is not None:
            _replace(self.json_file, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        if self.markdown_file is not None:
            _replace(self.markdown_file, self.markdown())

    def to_dict(self) -> dict[str, Any]:
        """Sections first, then what it is about."""
        return {name: self.rows[name] for name in SECTIONS if name in self.rows} | self.about

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `write` wrote as JSON.

        Raises:
            EvaluationError: it is not such a file.
        """
        try:
            content = strict_json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it is not an object")
            rows = {name: content.pop(name) for name in SECTIONS if name in content}
        except (OSError, ValueError, RecursionError) as error:
            raise EvaluationError(f"{path} is not a report of kblam eval: {error}") from error
        return cls(content, rows)

    def markdown(self) -> str:
        """The report as tables of at most 80 columns."""
        parts = [f"# Evaluation of {self.about.get('model', 'a model')}", _about(self.about)]
        adapter = [*_sized(self.rows), *_others(self.rows)]
        if adapter:
            parts += ["## Answers", _MEANING, _answers(adapter)]
            parts += [_item(f"{name}: {row['note']}") for name, row in adapter if "note" in row]
            parts += [_item(f"{name}: {_CUT.format(row['cut'])}") for name, row in adapter if "cut" in row]
            parts += ["## Refusals", _REFUSING, _refusals(adapter)]
            parts += ["## By kind of question", _KINDS, _kinds(adapter)]
            layers = [(name, row) for name, row in adapter if row.get("top1_by_layer")]
            if layers:
                parts += ["## Evidence by layer", "Top-1 / top-5 at the end of the prompt.", _layers(layers)]
            parts += ["## Intervals", "95 %, by Wilson's score; of open_facts over questions.", _intervals(adapter)]
        if "baselines" in self.rows:
            parts += ["## Baselines", _BASELINES, *_baselines(self.rows["baselines"])]
        if "general" in self.rows:
            parts += ["## General ability", _general(self.rows["general"])]
        return "\n\n".join(parts) + "\n"


_MEANING = (
    "Of one or two facts: exact, the whole sentence to the letter; value, every value\n"
    "stands in the answer verbatim; F1 and ROUGE-L of words. Top-1, top-5: evidence."
)
_CUT = (
    "{} of the answers were cut before they were as long as the right ones, and count as wrong. The evaluation stops "
    "there; `kblam ask --max-new-tokens` goes on."
)
_REFUSING = (
    "Precision: refusals that were right; recall: unanswerable questions refused;\n"
    "false: answerable ones refused. Seen: what the user reads; decision: that a\n"
    "question is not known; learned: what the model says when nothing decides for it."
)
_KINDS = (
    "One fact: exact. Two: both clauses right. All of an entity: nothing but facts of\n"
    "it, and the share of its facts that were told. Unanswerable: refused."
)
_BASELINES = "The same model without knowledge tokens, on the same questions and machine."


def _about(about: dict[str, Any]) -> str:
    items = []
    for name, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        if value is not None:
            items.append(_item(f"{name}: {value}"))
    return "\n".join(items)


def _item(text: str) -> str:
    """A line of a list, in lines of at most 80 columns; names and paths stay whole."""
    return textwrap.fill(
        text, 80, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _sized(rows: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    sizes = sorted(rows.get("sizes", {}).items(), key=lambda item: int(item[0]))
    return [(f"{int(size):,}", figures) for size, figures in sizes]


def _others(rows: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    if "unseen" in rows:
        found.append((f"{rows['unseen'].get('triples', 0):,}, unseen", rows["unseen"]))
    if "kb" in rows:
        found.append((f"own, {rows['kb'].get('triples', 0):,}", rows["kb"]))
    found += [(f"{name}, {row.get('triples', 0):,}", row) for name, row in rows.get("real", {}).items()]
    return found


def _answers(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    names = ("exact", "value", "top1", "top5", "token_f1", "rouge_l")
    titles = ("exact", "value", "top-1", "top-5", "F1", "ROUGE-L")
    return _table(("triples", *titles), [[name, *(_number(row.get(key)) for key in names)] for name, row in rows])


def _refusals(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    body = []
    for name, row in rows:
        seen = [row.get(f"refusal_{key}") for key in ("precision", "recall", "f1")] + [row.get("false_refusals")]
        body.append([name, "seen", *map(_number, seen)])
        for by in ("decision", "learned"):
            if by in row:
                body.append([name, by, *(_number(row[by].get(key)) for key in ("precision", "recall", "f1", "false"))])
    return _table(("triples", "by", "precision", "recall", "F1", "false"), body)


def _kinds(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    refused = ("refusal_recall_entity", "refusal_recall_property")
    names = ("exact_single", "pair_right", "open_right", "open_facts", *refused)
    titles = ("one", "two", "all", "of all", "no entity", "no property")
    return _table(("triples", *titles), [[name, *(_number(row.get(key)) for key in names)] for name, row in rows])


def _layers(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    body = [
        [name, layer, _number(share), _number(row["top5_by_layer"].get(layer))]
        for name, row in rows
        for layer, share in sorted(row["top1_by_layer"].items(), key=lambda item: int(item[0]))
    ]
    return _table(("triples", "layer", "top-1", "top-5"), body)


def _intervals(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    shown = ("exact", "value", "top1", "top5", "pair_right", "refusal_precision", "refusal_recall", "false_refusals")
    body = []
    for name, row in rows:
        for key, (low, high, hits, of) in row.get("intervals", {}).items():
            if key in shown:
                ends = f"{low:.3f} - {high:.3f}"
                body.append([name, key.replace("_", " "), _number(row[key]), ends, f"{hits} of {of}"])
    return _table(("triples", "figure", "share", "interval", "counts"), body)


def _baselines(baselines: dict[str, Any]) -> list[str]:
    named = {size for rows in baselines.values() for size in rows}
    body, reasons = [], []
    for size in sorted(named, key=lambda size: (not size.isdecimal(), size.zfill(9))):
        label = f"{int(size):,}" if size.isdecimal() else size
        for name, row in ((name, rows[size]) for name, rows in baselines.items() if size in rows):
            if "reason" in row:
                reasons.append(_item(f"{name}, {label}: {row['reason']}"))
                continue
            numbers = [_number(row.get(key)) for key in ("value", "refusal_f1", "false_refusals")]
            costs = [_cost(row.get(key)) for key in ("first_token_ms", "answer_ms", "peak_mib")]
            body.append([label, name, *numbers, *costs])
    titles = ("triples", "", "value", "ref. F1", "false", "1st ms", "all ms", "MiB")
    return [_table(titles, body), *(["\n".join(reasons)] if reasons else [])]


def _general(row: dict[str, Any]) -> str:
    equal, known = row["intervals"]["equal"], row["intervals"]["known"]
    return textwrap.fill(
        f"With {row['triples']:,} irrelevant triples attached, {equal[2]} of {equal[3]} greedy answers to general "
        f"questions equal the base model's own, and {known[2]} of the questions counted as known. Perplexity of prose: "
        f"{row['perplexity_alone']:.2f} alone, {row['perplexity_with']:.2f} with the knowledge in force all the time.",
        80,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _table(titles: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are as wide as they need; numbers to the right."""
    widths = [max(len(row[place]) for row in [titles, *body]) for place in range(len(titles))]
    left = [place == 0 or not any(row[place][-1:].isdigit() for row in body) for place in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        )
        return "| " + " | ".join(cells) + " |"

    rules = ("-" * (width + 1) + ("-" if is_left else ":") for width, is_left in zip(widths, left, strict=True))
    return "\n".join([line(titles), "|" + "|".join(rules) + "|", *map(line, body)])


def check_files(*files: Path | None) -> None:
    """Before anything is measured.

    Raises:
        EvaluationError: one cannot be written where it is wanted, would replace a knowledge base, or two are one file.
    """
    wanted: set[str] = set()
    for file in filter(None, files):
        if (reason := why_not(file)) is not None:
            raise EvaluationError(f"cannot write {file}: {reason}")
        if is_knowledge_base(file):
            raise EvaluationError(f"{file} is a knowledge base, which a report would replace; name another file")
        if file.is_file() or not file.exists():  # all may go to one pipe
            if (place := os.path.realpath(file)) in wanted:
                raise EvaluationError(f"two of the reports are one file, {file}; name another for one of them")
            wanted.add(place)


def _replace(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from error
