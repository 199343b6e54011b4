"""Pictures of a result file: `python -m benchmarks.pictures RESULT.json -o FOLDER`; needs matplotlib.

For each model, phase and dtype with two sizes of knowledge or more, one picture in a light and one in a dark form:
time, bytes of knowledge that a call reads, and share of the ceiling, over the number of triples; ours beside the peers.

exit status: 0; 2 if the file cannot be read or has nothing to draw.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kblam.bench import subjects
from kblam.bench.environment import line
from kblam.bench.report import Stored, read
from kblam.bench.rows import Row
from kblam.errors import BenchmarkError

# Of one reader's eye: ours in strong colours, told apart for the colour-blind too; peers in greys by marker.
COLOURS = dict(zip(subjects.OURS, ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9"), strict=True))
MARKERS = "ovs^Dpx+*"
# Ink and paper of both forms.
FORMS = {"": ("#24292f", "#ffffff", "#6e7781"), "-dark": ("#e6edf3", "#0d1117", "#9198a1")}
INCHES = (9.6, 3.7)


@dataclass(frozen=True)
class Drawing:
    """Rows of one model, phase and dtype, by implementation and then by triples."""

    name: str
    rows: dict[str, dict[int, Row]]


def drawings(rows: Sequence[Row]) -> list[Drawing]:
    """Those with two sizes of knowledge or more; no triple has no place on a logarithmic axis."""
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in rows:
        shape, _, triples = row.shape.rpartition(" M")
        if row.seconds and row.l2 == "cold" and triples.isdigit() and int(triples):
            of_shape = found.setdefault(f"{shape} {row.dtype}", {})
            of_shape.setdefault(row.implementation, {})[int(triples)] = row
    many = {name: {one: sizes for one, sizes in of.items() if len(sizes) > 1} for name, of in found.items()}
    return [Drawing(name, of) for name, of in many.items() if of]


def draw(drawing: Drawing, about: dict[str, Any], folder: Path, *, kind: str = "svg") -> list[Path]:
    """Both forms of a picture, each replaced whole or not at all; returns their files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = []
    for form, (ink, paper, muted) in FORMS.items():
        style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        style |= {"axes.edgecolor": muted, "font.size": 8.5, "svg.hashsalt": "kblam"}
        with pyplot.rc_context({**style, "figure.facecolor": paper, "axes.facecolor": paper}):
            figure, axes = pyplot.subplots(1, 3, figsize=INCHES)
            _lines(axes[0], drawing, "milliseconds of a call", lambda row: row.seconds and row.seconds * 1e3, muted)
            _lines(axes[1], drawing, "MB of knowledge read", lambda row: (row.knowledge_bytes or 0) / 1e6, muted)
            _lines(axes[2], drawing, "share of the ceiling", lambda row: row.share_of_ceiling, muted, log=False)
            axes[2].set_ylim(0, 1.05)
            figure.suptitle(drawing.name, y=0.985, fontsize=10)
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="lower center", ncol=5, frameon=False, bbox_to_anchor=(0.5, 0.035))
            figure.text(0.5, 0.012, line(about), ha="center", color=muted, fontsize=7)
            figure.tight_layout(rect=(0, 0.05 + 0.05 * -(-len(labels) // 5), 1, 1))
            file = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', drawing.name)}{form}.{kind}"
            unfinished = file.with_name(f".{file.name}")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                figure.savefig(
                    unfinished,
                    format=kind,
                    facecolor=paper,
                    dpi=150,
                    metadata={"Date": None} if kind == "svg" else None,
                )
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
                pyplot.close(figure)
            files.append(file)
    return files


def _lines(axes: Any, drawing: Drawing, title: str, value: Any, muted: str, *, log: bool = True) -> None:
    names = sorted(drawing.rows, key=lambda name: (name not in COLOURS, name))
    peers = [name for name in names if name not in COLOURS]
    for name in names:
        points = [(M, value(row)) for M, row in sorted(drawing.rows[name].items()) if value(row)]
        if not points:
            continue
        ours = name in COLOURS
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            color=COLOURS[name] if ours else muted,
            linewidth=1.8 if ours else 0.9,
            linestyle="-" if ours else "--",
            marker="" if ours else MARKERS[peers.index(name) % len(MARKERS)],
            markersize=4,
        )
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
    axes.set_title(title, fontsize=8.5)
    axes.set_xlabel("triples")
    axes.grid(visible=True, color=muted, alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("result", type=Path, help="of kblam bench --json, or of make gpu-bench")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of the pictures")
    parser.add_argument("--kind", choices=["svg", "png"], default="svg")
    given = parser.parse_args(arguments)
    try:
        if importlib.util.find_spec("matplotlib") is None:
            raise BenchmarkError("pictures need matplotlib, which is not installed: pip install 'kblam-kernels[eval]'")
        stored: Stored = read(given.result)
        found = drawings(stored.rows)
        if not found:
            raise BenchmarkError(f"{given.result} has no shape with two sizes of knowledge; measure --triples 1K,10K")
    except BenchmarkError as error:
        print(f"BenchmarkError: {error}", file=sys.stderr)
        return 2
    for drawing in found:
        for file in draw(drawing, stored.about, given.output, kind=given.kind):
            print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
