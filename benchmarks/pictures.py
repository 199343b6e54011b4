"""Pictures of result files: `python -m benchmarks.pictures RESULT.json ... -o FOLDER`; needs matplotlib.

Of `kblam bench --json` and `make gpu-bench`: for each model, phase and dtype with two sizes of knowledge or more, time,
bytes of knowledge that a call reads, and share of the ceiling, over the number of triples; ours beside the peers.
Of `pytest benchmarks/test_model.py --benchmark-json`: tokens a second, and seconds to the first one.

Each is drawn in a light and in a dark form. --only and --panels choose what a smaller picture has room for.

exit status: 0; 2 if a file cannot be read or has nothing to draw, or a picture could not be written.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.model_results import Models, check_same_run, is_of_pytest, read_models
from kblam.bench import subjects
from kblam.bench.environment import line
from kblam.bench.report import Stored, read
from kblam.bench.rows import Row
from kblam.errors import BenchmarkError
from kblam.whole import why_not

# Of one reader's eye: ours in strong colours, told apart for the colour-blind too; peers in greys by marker.
COLOURS = dict(zip(subjects.OURS, ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9"), strict=True))
MARKERS = "ovs^Dpx+*"
# Ink and paper of both forms.
FORMS = {"": ("#24292f", "#ffffff", "#6e7781"), "-dark": ("#e6edf3", "#0d1117", "#9198a1")}
INCHES_OF_A_PANEL, INCHES_HIGH = 3.2, 3.7
_SHAPE = re.compile(r"(.+) (\w+) B(\d+) N(\d+) T(\d+) (\w+)")
# As many lines have their names at their ends; more have a legend.
NAMED_AT_ENDS = 7


@dataclass(frozen=True)
class Panel:
    """Values by implementation and triples, over a logarithmic axis of triples.

    Args:
        name: for --panels.
        title: above it.
        lines: of each implementation; one value alone is a point.
        is_log: whether the values' axis is logarithmic; else it is of shares, 0 to 1.
    """

    name: str
    title: str
    lines: dict[str, dict[int, float]]
    is_log: bool = True


@dataclass(frozen=True)
class Drawing:
    """Panels of one picture, side by side.

    Args:
        name: of a shape or model, and the stem of its file.
        panels: at least one.
        about: the environment of its figures.
    """

    name: str
    panels: list[Panel]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people."""
        found = _SHAPE.fullmatch(self.name)
        if found is None:
            return self.name
        model, phase, batch, new, total, dtype = found.groups()
        tokens = "1 new token" if new == "1" else f"{int(new):,} new tokens"
        before = f" after {int(total) - int(new):,}" if total != new else ""
        rows = "" if batch == "1" else f", batch of {batch}"
        return f"Attention of {model}, {phase}: {tokens}{before}{rows}, {dtype}"


# What a row says, by the panel that shows it.
VALUES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "time": ("milliseconds of a call", lambda row: row.seconds and row.seconds * 1e3),
    "bytes": ("MB of knowledge read", lambda row: (row.knowledge_bytes or 0) / 1e6),
    "share": ("share of the ceiling", lambda row: row.share_of_ceiling),
}


def drawings(rows: Sequence[Row], about: dict[str, Any] | None = None) -> list[Drawing]:
    """Those with two sizes of knowledge or more; no triple has no place on a logarithmic axis."""
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in rows:
        shape, _, triples = row.shape.rpartition(" M")
        if row.seconds and row.l2 == "cold" and triples.isdecimal() and int(triples):
            of_shape = found.setdefault(f"{shape} {row.dtype}", {})
            of_shape.setdefault(row.implementation, {})[int(triples)] = row
    many = {name: {one: sizes for one, sizes in of.items() if len(sizes) > 1} for name, of in found.items()}
    return [Drawing(name, [_panel(panel, of) for panel in VALUES], about or {}) for name, of in many.items() if of]


def _panel(name: str, of: Mapping[str, Mapping[int, Row]]) -> Panel:
    title, value = VALUES[name]
    lines = {one: {M: shown for M, row in sorted(sizes.items()) if (shown := value(row))} for one, sizes in of.items()}
    return Panel(name, title, lines, is_log=name != "share")


def of_models(models: Models) -> list[Drawing]:
    """One for each model with two sizes of knowledge or more."""
    found = []
    for name, timed in models.timed.items():
        panels = [
            Panel("tokens", "tokens a second", {one: by_size for one, by_size in timed.tokens.items() if by_size}),
            Panel("first", "seconds to the first token", {one: by for one, by in timed.first.items() if by}),
        ]
        panels = [panel for panel in panels if any(len(by_size) > 1 for by_size in panel.lines.values())]
        if panels:
            found.append(Drawing(f"{name}, whole model", panels, models.about))
    return found


def chosen(drawing: Drawing, only: Sequence[str], panels: Sequence[str]) -> Drawing:
    """With these implementations and panels alone; all where none are named.

    Raises:
        BenchmarkError: it has no such line or panel.
    """
    known = {name for panel in drawing.panels for name in panel.lines}
    for option, names, there in (("--only", only, known), ("--panels", panels, {p.name for p in drawing.panels})):
        if missing := [name for name in names if name not in there]:
            raise BenchmarkError(f"{option}: {drawing.name} has no {missing[0]!r}; it has {', '.join(sorted(there))}")
    kept = [
        Panel(
            panel.name,
            panel.title,
            {name: values for name, values in panel.lines.items() if not only or name in only},
            panel.is_log,
        )
        for panel in drawing.panels
        if not panels or panel.name in panels
    ]
    return Drawing(drawing.name, kept, drawing.about)


def draw(drawing: Drawing, folder: Path, *, kind: str = "svg") -> list[Path]:
    """Both forms of a picture, each replaced whole or not at all; returns their files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for panel in drawing.panels for name in panel.lines}, key=lambda name: (_is_peer(name), name))
    at_ends = len(names) <= NAMED_AT_ENDS
    count = len(drawing.panels)
    files = []
    for form, (ink, paper, muted) in FORMS.items():
        style: dict[str, Any] = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        style |= {"axes.edgecolor": muted, "font.size": 8.5, "svg.hashsalt": "kblam"}
        with pyplot.rc_context({**style, "figure.facecolor": paper, "axes.facecolor": paper}):
            width = count * INCHES_OF_A_PANEL * (1.4 if at_ends else 1)
            figure, axes = pyplot.subplots(1, count, figsize=(width, INCHES_HIGH), squeeze=False)
            for ax, panel in zip(axes[0], drawing.panels, strict=True):
                _draw_panel(ax, panel, names, muted, at_ends=at_ends)
            figure.suptitle(drawing.title, y=0.985, fontsize=10)
            shown = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes[0]]
            handles = {label: handle for of_panel in shown for handle, label in of_panel}
            below = 0.05
            if not at_ends:
                below += 0.05 * math.ceil(len(names) / 5)
                figure.legend(
                    [handles[name] for name in names],
                    names,
                    loc="lower center",
                    ncol=5,
                    frameon=False,
                    bbox_to_anchor=(0.5, 0.035),
                )
            figure.text(0.5, 0.012, line(drawing.about), ha="center", color=muted, fontsize=7)
            figure.tight_layout(rect=(0, below, 1, 1))
            files.append(_save(figure, folder, f"{_stem(drawing.name)}{form}.{kind}", kind, paper))
            pyplot.close(figure)
    return files


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name)


def _save(figure: Any, folder: Path, name: str, kind: str, paper: str) -> Path:
    file, unfinished = folder / name, folder / f".{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(unfinished, format=kind, facecolor=paper, dpi=150, metadata=metadata)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file


def _is_peer(name: str) -> bool:
    return name not in COLOURS


def _draw_panel(ax: Any, panel: Panel, names: Sequence[str], muted: str, *, at_ends: bool) -> None:
    peers = [name for name in names if _is_peer(name)]
    ends: dict[str, tuple[float, float]] = {}
    for name in names:
        points = sorted(panel.lines.get(name, {}).items())
        if not points:
            continue
        peer = _is_peer(name)
        ax.plot(
            *zip(*points, strict=True),
            label=name,
            color=muted if peer else COLOURS[name],
            linewidth=0.9 if peer else 1.8,
            linestyle="--" if peer else "-",
            marker=MARKERS[peers.index(name) % len(MARKERS)] if peer else "",
            markersize=4,
        )
        ends[name] = points[-1]
    ax.set_xscale("log")
    if panel.is_log:
        ax.set_yscale("log")
        _number_plainly(ax.yaxis)
    else:
        ax.set_ylim(0, 1.05)
    ax.set_title(panel.title, fontsize=8.5)
    ax.set_xlabel("triples")
    ax.grid(visible=True, color=muted, alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if at_ends:
        _name_ends(ax, ends, muted)


def _number_plainly(axis: Any) -> None:
    """1, 10, 100, and between them where there are few of those."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(1.5, 0.6)))


def _name_ends(ax: Any, ends: Mapping[str, tuple[float, float]], muted: str) -> None:
    """Names right of the axes, at the heights of their lines' ends but so far apart that they can be read."""
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = sorted((to_axes.transform(end)[1], name) for name, end in ends.items())
    apart, lowest = 0.075, -1.0
    placed = []
    for height, name in heights:
        lowest = max(height, lowest + apart)
        placed.append((lowest, name))
    over = max(0.0, placed[-1][0] - 1.0) if placed else 0.0
    for height, name in placed:
        ax.annotate(
            name,
            xy=ends[name],
            xytext=(1.04, height - over),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=COLOURS.get(name, muted),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": COLOURS.get(name, muted), "linewidth": 0.5, "alpha": 0.6},
        )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="of kblam bench --json, of a suite")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of the pictures")
    parser.add_argument("--kind", choices=["svg", "png"], default="svg")
    parser.add_argument("--only", default="", metavar="NAMES", help="these implementations alone")
    parser.add_argument("--panels", default="", metavar="NAMES", help="time, bytes, share; of a model tokens, first")
    given = parser.parse_args(arguments)
    try:
        if (reason := why_not(given.output / "picture")) is not None:
            raise BenchmarkError(f"--output: {reason}")
        if importlib.util.find_spec("matplotlib") is None:
            raise BenchmarkError("pictures need matplotlib, which is not installed: pip install 'kblam-kernels[eval]'")
        found = _found(given.results)
        if not found:
            files = ", ".join(map(str, given.results))
            raise BenchmarkError(f"{files} has no shape with two sizes of knowledge; measure --triples 1K,10K")
        found = [chosen(drawing, _words(given.only), _words(given.panels)) for drawing in found]
    except BenchmarkError as error:
        print(f"BenchmarkError: {error}", file=sys.stderr)
        return 2
    for drawing in found:
        for file in draw(drawing, given.output, kind=given.kind):
            print(file)
    return 0


def _found(files: Sequence[Path]) -> list[Drawing]:
    """Of all files: rows of one machine and commit together, and models together.

    Raises:
        BenchmarkError: a file cannot be read, or is of another machine or commit than the first of its kind.
    """
    of_suites = [file for file in files if is_of_pytest(file)]
    found = of_models(read_models(of_suites)) if of_suites else []
    rows: list[Row] = []
    about: dict[str, Any] = {}
    for file in files:
        if file in of_suites:
            continue
        stored: Stored = read(file)
        check_same_run(stored.about, about or stored.about, file)
        about = about or stored.about
        rows += stored.rows
    return found + drawings(rows, about)


if __name__ == "__main__":
    sys.exit(main())
