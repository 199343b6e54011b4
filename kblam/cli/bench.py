"""`kblam bench`: attention to knowledge on this machine beside what PyTorch users have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kblam.cli.errors import FAILED
from kblam.cli.output import err, out, progress_bar, waiting
from kblam.cli.tables import print_table
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from kblam.bench.cases import Case
    from kblam.bench.ceilings import Ceilings
    from kblam.bench.rows import Row


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Three shapes and fewer repeats: under two minutes.")] = False,
    shapes: Annotated[
        str,
        typer.Option("--shapes", metavar="NAMES", help="Models by name, or heads x key heads x head dim: 24x8x128."),
    ] = "",
    triples: Annotated[
        str, typer.Option("--triples", metavar="COUNTS", help="Knowledge sizes, such as 1000,10K,1M.")
    ] = "",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAMES", help="bfloat16, float16, float32.")] = "",
    phases: Annotated[str, typer.Option("--phases", metavar="NAMES", help="decode, prefill, question, evidence.")] = "",
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="COUNTS", help="New tokens of prefill, such as 128,512,2048.")
    ] = "",
    peers: Annotated[
        str, typer.Option("--peers", metavar="NAMES", help="Only these peers; it is an error if one is not installed.")
    ] = "",
    storage: Annotated[
        str,
        typer.Option("--storage", metavar="NAMES", help="Latents in these dtypes alone: that of --dtype, int8, ..."),
    ] = "auto",
    plan: Annotated[
        str, typer.Option("--plan", metavar="NAMES", help="Only these paths of ours: latent, dense, materialise.")
    ] = "auto",
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="An earlier --json of this machine, beside it.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", metavar="COMMIT", help="Instead: this checkout and that commit of it, in turn.")
    ] = "",
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Of --against. Default: 5.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows and the machine here.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="Instead: a trace of a whole model's tokens, for Perfetto."),
    ] = None,
    flex: Annotated[
        bool | None,
        typer.Option(
            "--flex/--no-flex",
            help="Peers that are compiled for each shape. Default: not if quick, unless --peers names one.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: PyTorch's own choice.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure attention to knowledge on this machine, beside PyTorch's and the machine's own limits.

    Each result is held against float64 before it is timed. It is an error if the C++ kernels cannot be used on a CPU.

    Example: kblam bench --quick --json bench.json
    """
    import torch

    from kblam.bench import cases, ceilings, environment, measured, report
    from kblam.bench.against import CONTROL
    from kblam.bench.compare import check_machine
    from kblam.bench.growth import growth
    from kblam.bench.peers import COMPILED
    from kblam.errors import BenchmarkError

    if threads is not None:
        torch.set_num_threads(threads)
    environment.check_device(device)
    chosen = _cases(quick, device, *map(_words, (shapes, triples, dtype, phases, tokens)))
    only = cases.Only(*(() if given == "auto" else _words(given) for given in (storage, plan)))
    only.check(chosen)
    if against:
        if compare or json_file or profile:
            raise BenchmarkError("--against prints a table of its own: leave --compare, --json and --profile out")
        given = {"shapes": shapes, "triples": triples, "dtype": dtype, "phases": phases, "tokens": tokens}
        given |= {name: value for name, value in (("storage", storage), ("plan", plan)) if value != "auto"}
        if peers or flex:
            raise BenchmarkError(
                f"--against has one peer, {CONTROL!r}, and compiles none: leave --peers and --flex out"
            )
        _against(against, rounds or 5, quick, device, threads, **given)
        return
    if rounds is not None:
        raise BenchmarkError("--rounds is of --against; leave it out, or name a commit there")
    report.check_target(profile, "--profile")
    if profile is not None:
        if plan != "auto" or len(only.storages) > 1:
            raise BenchmarkError("--profile reads latents of one --storage; leave --plan and others out")
        more = {"--quick": quick, "--dtype": dtype, "--phases": phases, "--tokens": tokens, "--peers": peers}
        more |= {"--compare": compare, "--json": json_file, "--flex": flex, "--no-flex": flex is False}
        if ignored := [name for name, value in more.items() if value]:
            raise BenchmarkError(
                f"--profile traces one model and measures nothing else: leave {', '.join(ignored)} out"
            )
        for name, given_names in (("--shapes", shapes), ("--triples", triples)):
            if len(_words(given_names)) > 1:
                raise BenchmarkError(f"--profile traces one: choose of {name} {given_names!r}")
        _profile(profile, device, _words(shapes), _words(triples), only.storages[0] if only.storages else "bfloat16")
        return
    names = measured.ours_and(_words(peers), device) if peers else None
    compiled = [name for name in names or () if name in COMPILED]
    if compiled and flex is False:
        raise BenchmarkError(f"--no-flex leaves out {compiled[0]!r}, which --peers names; leave one of the two out")
    compiles = flex if flex is not None else bool(compiled) or not quick
    about = environment.environment(device)
    before: list[Row] = []
    if compare is not None:
        stored = report.read(compare)
        check_machine(stored, about, compare)
        before = stored.rows
    report.check_target(json_file, "--json")
    made = report.Report(json_file, about)
    on_gpu = torch.device(device).type == "cuda"
    limits: dict[torch.dtype, Ceilings] = {}
    fitting, made.left_out = _fitting(chosen, device, is_list=not (shapes or triples or dtype or phases or tokens))
    for case in fitting:
        with waiting(case.title):
            if on_gpu and case.dtype not in limits:
                limits[case.dtype] = ceilings.of(device, case.dtype)
                made.ceilings[case.dtype_name] = limits[case.dtype].as_json
            run = measured.Run(
                device,
                case.dtype,
                limits.get(case.dtype),
                compiles=compiles,
                turns=5 if quick else 15,
                chosen=names,
                left_out=frozenset(only.leaves_out(case)),
            )
            made.rows += measured.rows(case.shape, run)
            made.compare_rows()
        _show(case, [row for row in made.rows if (row.shape, row.dtype) == (case.shape.name, case.dtype_name)], before)
    for one in growth(made.rows):
        sizes = f"{one.sizes[0]:,} to {one.sizes[-1]:,} triples"
        shown = f"time grows as M ** {one.exponent:.2f} (+- {one.margin:.2f}), {sizes}: {', '.join(one.of)}"
        out.print(shown, markup=False, soft_wrap=True)
    out.print(environment.line(about), markup=False, soft_wrap=True)
    made.write()
    if json_file is not None:
        err.print(f"{many(len(made.rows), 'row')} in {json_file}", markup=False, soft_wrap=True)
    for name in made.failed:
        err.print(f"failed: {name}", markup=False, style="red", soft_wrap=True)
    if made.failed:
        raise typer.Exit(FAILED)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _cases(
    quick: bool,
    device: str,
    shapes: list[str],
    triples: list[str],
    dtypes: list[str],
    phases: list[str],
    tokens: list[str],
) -> Sequence[Case]:
    from kblam.bench import cases

    if shapes or triples or dtypes or phases or tokens:
        return cases.chosen(shapes, triples, dtypes, phases=phases or ("decode", "prefill"), tokens=tokens)
    return cases.quick(device) if quick else cases.FULL


def _fitting(chosen: Sequence[Case], device: str, *, is_list: bool) -> tuple[list[Case], list[str]]:
    """Those that fit into memory, and the names of the others: of a list they are left out, else it is an error."""
    from kblam.bench.cases import check_fits
    from kblam.errors import BenchmarkError

    fitting, left_out = [], []
    for case in chosen:
        try:
            check_fits(case, device)
        except BenchmarkError as problem:
            if not is_list:
                raise
            left_out.append(case.name)
            err.print(f"left out: {problem}", markup=False, soft_wrap=True)
        else:
            fitting.append(case)
    return fitting, left_out


def _against(commit: str, rounds: int, quick: bool, device: str, threads: int | None, **chosen: str) -> None:
    """Shows how many times as fast this checkout is as that commit."""
    from kblam.bench.against import CONTROL, compare

    options = ["--no-flex", "--device", device, "--peers", CONTROL, *(["--quick"] if quick else [])]
    options += [] if threads is None else ["--threads", str(threads)]
    for name, value in chosen.items():
        options += [f"--{name}", value] if value else []
    with progress_bar("runs") as told:
        found = compare(commit, options, rounds, told)
    table = Table(box=None, padding=(0, 1))
    for column in ("shape", "dtype", "implementation"):
        table.add_column(column, overflow="fold")
    for column in ("median", "least", "most"):
        table.add_column(column, justify="right")
    for one in found:
        figures = (f"{value:.2f}" for value in (one.median, one.least, one.most))
        warm = ", warm" if one.l2 == "warm" else ""
        table.add_row(one.shape, one.dtype, one.implementation + warm, *figures)
    print_table(table, f"times as fast as {commit}")
    out.print(f"{CONTROL} is the same in both: its figures are the noise of this machine", markup=False)


def _profile(file: Path, device: str, shapes: list[str], triples: list[str], storage: str) -> None:
    """Writes a trace of a model's tokens and shows what takes most of one."""
    from kblam.bench import cases, environment, traces

    model = cases.model_of(shapes[0] if shapes else "llama-3.2-1b").name
    count = cases.count_of(triples[0] if triples else "10K")
    title = f"{model}, one token, {count_of(count)} in {storage}, random weights"
    with waiting(title):
        found = traces.of_a_token(model, count, device, file, storage=storage)
    table = Table(box=None, padding=(0, 1))
    table.add_column("operation", overflow="fold")
    for column in ("launches", "ms", "share"):
        table.add_column(column, justify="right")
    for kernel in found.longest:
        share = kernel.microseconds / found.microseconds
        table.add_row(kernel.name, f"{kernel.launches:.0f}", f"{kernel.microseconds / 1e3:.3f}", f"{share:.1%}")
    print_table(table, title)
    out.print(environment.line(environment.environment(device)), markup=False, soft_wrap=True)
    err.print(f"open {file} at https://ui.perfetto.dev", markup=False, soft_wrap=True)


def _show(case: Case, rows: list[Row], before: list[Row]) -> None:
    """A table of what was measured, and a line for each reason why something was not."""
    from kblam.bench.compare import speedup
    from kblam.bench.probes import FLAGGED

    table = Table(box=None, padding=(0, 1))
    table.add_column("implementation", width=26)
    for column in ("ms", "x best peer", "of ceiling", "extra MB", *(["x before"] if before else [])):
        table.add_column(column, justify="right", width=11)
    reasons: dict[str, list[str]] = {}
    slow_probes = 0.0
    for row in rows:
        if row.seconds is None:
            reasons.setdefault(f"{row.status}: {row.note}", []).append(row.implementation)
            continue
        shares = "" if row.share_of_ceiling is None else f"{row.share_of_ceiling:.2f}"
        if (row.share_of_probes or 0.0) > FLAGGED:
            slow_probes = max(slow_probes, row.share_of_probes or 0.0)
            shares += " !"
        ratio = "" if row.ratio_to_best_peer is None else f"{row.ratio_to_best_peer:.2f}"
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
        cells = [f"{row.seconds * 1e3:.3f}", ratio, shares, memory]
        if before:
            found = speedup(row, before)
            cells.append("" if found is None else f"{found:.2f}")
        warm = ", warm" if row.l2 == "warm" else ""
        table.add_row(row.implementation + warm, *cells, style="green" if row.is_ours else None)
    print_table(table, case.title)
    if slow_probes:
        out.print(f"! up to {slow_probes:.2f} of the probes of the ceiling: its own rate is the ceiling here")
    for reason, names in reasons.items():
        out.print(f"{reason} ({', '.join(names)})", markup=False, soft_wrap=True)
    notes: dict[str, list[str]] = {}
    for row in rows:
        for note in row.note.split("; ") if row.seconds is not None and row.note else ():
            notes.setdefault(note, []).append(row.implementation)
    for note, names in notes.items():
        out.print(f"{note}: {', '.join(names)}", markup=False, soft_wrap=True)
    out.print()
