"""`kblam eval`: how well a model answers from knowledge it never saw, as tables, JSON and a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.loading import ModelOptions, complete, load, warn_of
from kblam.cli.options import MOST_QUESTIONS, AdapterSource, Backend, Device, Dtype, Knowledge, Model, Precision
from kblam.cli.output import err, out, waiting
from kblam.counts import many

if TYPE_CHECKING:
    from kblam.evaluation.plan import Plan
    from kblam.folder import LoadedModel
    from kblam.knowledge import Encoder, Triple

SIZES = "100,1000,10000"
DEMO_REAL = "elements"
_MOST_DIGITS = 12  # Python reads no number of thousands of them


def evaluate(
    model: Model = None,
    adapter: AdapterSource = None,
    kb: Knowledge = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help=f"Triples of the synthetic bases; default: {SIZES}.")
    ] = None,
    real: Annotated[
        str | None,
        typer.Option("--real", help="Real bases, as `kblam data` has them, such as elements or wordnet=FOLDER."),
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="1,000 synthetic triples, asked in words that training never saw.")
    ] = False,
    general: Annotated[
        bool, typer.Option("--general", help="Questions that no base answers, with the largest base attached.")
    ] = False,
    questions: Annotated[int, typer.Option("--questions", "-n", min=8, max=MOST_QUESTIONS, help="Of each row.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the questions.")] = 0,
    baselines: Annotated[
        str | None, typer.Option("--baselines", help="The same model otherwise: rag, in-context, zero-shot.")
    ] = None,
    baseline_questions: Annotated[
        int | None,
        typer.Option("--baseline-questions", min=8, max=MOST_QUESTIONS, help="The first of each row; default: 50."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report here, row by row.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="The same as tables.")] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw where questions look (needs matplotlib).")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="FOLDER",
            help="Keep the knowledge bases there, so that each is encoded once for all runs.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Ask each question once: not again with the refusal left to the model, nor layer by layer."
        ),
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Judge what is shipped: all kinds of row; baselines at two sizes.")
    ] = False,
    rag_encoder: Annotated[
        str | None,
        typer.Option(
            "--rag-encoder", help="Of the rag baseline: BAAI/bge-small-en-v1.5, ...; default: the base's own."
        ),
    ] = None,
    rag_instruction: Annotated[
        str | None, typer.Option("--rag-instruction", help="Before its questions; default: BGE's own, none for others.")
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Of synthetic and real bases.")] = "minilm",
    device: Device = None,
    dtype: Dtype = Precision.auto,
    backend: Backend = "auto",
) -> None:
    """Measure a model: right answers, right evidence, right refusals, with their intervals.

    Knowledge bases of unseen synthetic facts, by default; with --kb, questions made from your own triples. Says
    beforehand how long it will take. Files are written after every row.

    Example: kblam eval --demo --json report.json
    """
    from kblam.evaluation.report import Report, check_files

    chosen = _Rows(sizes, real, unseen, general, demo, has_own=kb is not None)
    plan = _plan(chosen, baselines, questions, baseline_questions, seed)
    searching = _searching(plan, rag_encoder, rag_instruction)
    check_files(json_file, markdown, png)
    if png is not None:
        from kblam.evaluation.heat import check_drawing

        check_drawing(png)
    if cache is not None:
        from kblam.evaluation.bases import check_cache

        check_cache(cache)
    sources = _sources(real)
    plan, skipped = _with_real_bases(plan, sources, skip=demo and real is None)
    options = ModelOptions(model, adapter, kb, device, dtype, backend)
    with _loaded(options, encoder) as (loaded, triples):
        from kblam.data.drawing import check_base
        from kblam.evaluation.loop import RememberingEncoder
        from kblam.evaluation.material import standard_material
        from kblam.evaluation.run import Evaluation

        if triples is not None:
            facts = tuple((t.name, t.property, t.value) for t in triples)
            # Another key is another knowledge base, in which other facts are found.
            keys = {t.identity: t.key_string for t in triples if t.key_string is not None}
            check_base(facts, str(loaded.knowledge_base.path))
            plan = replace(plan, own=facts, own_keys=keys)
        warn_of(replace(options, kb=loaded.knowledge_base.path), loaded)
        own_encoder = loaded.knowledge_base.encoder
        about = _about(loaded, options, plan, skipped) | _about_rag(plan, searching or own_encoder, rag_instruction)
        report = Report(about | {"quick": quick or None}, json_file=json_file, markdown_file=markdown)
        remembering = RememberingEncoder(own_encoder)
        if triples is not None:
            remembering.remember_all(loaded.knowledge_base)
        material = standard_material(loaded.attachment.config.answer, sources)
        run = Evaluation(
            loaded,
            remembering,
            plan,
            material,
            report,
            png,
            cache,
            quick,
            noted=_note,
            searching=None if searching is None else RememberingEncoder(searching),
            instruction=rag_instruction,
        )
        _run(run, report)
    out.print(report.markdown(), markup=False, soft_wrap=True)


@dataclass(frozen=True)
class _Rows:
    """The options that choose what is asked, as they were typed."""

    sizes: str | None
    real: str | None
    unseen: bool
    general: bool
    demo: bool
    has_own: bool

    @property
    def is_everything(self) -> bool:
        return self.demo or not (self.has_own or self.real or self.sizes or self.unseen)


def _plan(chosen: _Rows, baselines: str | None, questions: int, baseline_questions: int | None, seed: int) -> Plan:
    from kblam.evaluation.baselines import NAMES
    from kblam.evaluation.plan import BASELINE_QUESTIONS, Plan

    everything = chosen.is_everything
    sizes, real = chosen.sizes, chosen.real
    if sizes is None and everything:
        sizes = SIZES
    if chosen.demo:
        real, baselines = real or DEMO_REAL, baselines or ",".join(NAMES)
    if baseline_questions is not None and not _words(baselines):
        raise CommandError("--baseline-questions is of baselines, and none was asked for; add --baselines rag")
    triples = tuple(dict.fromkeys(_number(word) for word in _words(sizes)))
    return Plan(
        sizes=triples,
        unseen=chosen.unseen or everything,
        real=tuple(_sources(real)),
        baselines=tuple(_known(word, "--baselines", NAMES) for word in _words(baselines)),
        # A prompt of a hundred triples fits into the context, ten thousand do not: two rows tell what there is to tell.
        compared=(str(min(triples)), str(max(triples))) if chosen.demo and triples else None,
        general=chosen.general or everything,
        questions=questions,
        seed=seed,
        baseline_questions=BASELINE_QUESTIONS if baseline_questions is None else baseline_questions,
    )


def _searching(plan: Plan, spec: str | None, instruction: str | None) -> Encoder | None:
    """The encoder that RAG searches with where it is not the base's own; it is loaded here, not hours later."""
    if spec is None and instruction is None:
        return None
    if "rag" not in plan.baselines:
        option = "--rag-instruction" if spec is None else "--rag-encoder"
        raise CommandError(f"{option} is of the baseline rag, which was not asked for; add --baselines rag")
    if spec is None:
        return None
    from kblam.knowledge import load_encoder

    with waiting("loading the encoder of the rag baseline"):
        encoder = load_encoder(spec)
        encoder.encode(["ready?"])
    return encoder


def _about_rag(plan: Plan, encoder: Encoder, instruction: str | None) -> dict[str, Any]:
    """What the RAG baseline searches with, for the report."""
    from kblam.generation.rag import instruction_of

    if "rag" not in plan.baselines:
        return {}
    before = instruction_of(encoder.spec) if instruction is None else instruction
    return {"rag encoder": encoder.spec, "rag instruction": before or None}


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _sources(text: str | None) -> dict[str, str | None]:
    """Name to folder, of "elements,wordnet=/usr/share/wordnet"."""
    parts = (word.partition("=") for word in _words(text))
    return {name: folder or None for name, _, folder in parts}


def _number(word: str) -> int:
    digits = word.replace("_", "")
    if not digits.isdecimal() or len(digits) > _MOST_DIGITS or int(digits) < 20:
        raise CommandError(
            f"--sizes: {word[:60]!r} is not a number of triples of at least 20; write for example {SIZES}"
        )
    return int(digits)


def _known(word: str, option: str, possible: tuple[str, ...]) -> str:
    if word not in possible:
        raise CommandError(f"{option}: there is no {word!r}; possible: {', '.join(possible)}")
    return word


def _with_real_bases(plan: Plan, sources: dict[str, str | None], *, skip: bool) -> tuple[Plan, dict[str, str]]:
    """The plan with the real bases that can be read; with `skip`, others are left out and named."""
    from kblam.errors import DataError
    from kblam.evaluation.material import real_facts

    skipped: dict[str, str] = {}
    for name in plan.real:
        try:
            with waiting(f"reading {name}"):
                real_facts(name, sources.get(name))
        except DataError as error:
            if not skip:
                raise
            skipped[name] = str(error)
            err.print(f"without {name}: {error}", style="yellow", markup=False, soft_wrap=True)
    return replace(plan, real=tuple(name for name in plan.real if name not in skipped)), skipped


@contextmanager
def _loaded(options: ModelOptions, encoder: str) -> Iterator[tuple[LoadedModel, list[Triple] | None]]:
    """The model, and the triples of the user's own base if there is one; else a base without facts stands in."""
    with tempfile.TemporaryDirectory() as folder:
        own = options.kb is not None
        if not own:
            from kblam.knowledge import KnowledgeBase, load_encoder

            stand_in = Path(folder) / "none.kb"
            with waiting("loading the encoder"):
                KnowledgeBase.create(stand_in, load_encoder(encoder)).close()
            options = replace(options, kb=stand_in)
        with waiting("loading the model"):
            loaded = load(options, read_only=own)
        with loaded.knowledge_base as knowledge_base:
            yield loaded, list(knowledge_base.triples()) if own else None


def _about(loaded: LoadedModel, options: ModelOptions, plan: Plan, skipped: dict[str, str]) -> dict[str, Any]:
    from kblam.evaluation.loop import BATCH
    from kblam.evaluation.machine import commit, device_name, versions
    from kblam_kernels.common.dispatch import AUTO, requested
    from kblam_kernels.dense.op import dense_attention

    config, knowledge_base = loaded.attachment.config, loaded.knowledge_base.path
    taken = complete(replace(options, kb=knowledge_base))
    backend = requested(options.backend, dense_attention.backends)
    return {
        "model": loaded.model.config._name_or_path or config.base_model,
        "adapter": taken.adapter or taken.model,
        "knowledge base": None if options.kb is None else str(knowledge_base),
        "encoder": config.encoder,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "backend": None if backend == AUTO else backend,
        "device": device_name(loaded.model.device),
        "commit": commit(),
        "versions": versions(),
        "seed": plan.seed,
        "questions": plan.questions,
        "batch": BATCH,
        "skipped": skipped or None,
    }


def _run(run: Any, report: Any) -> None:
    with waiting("measuring how fast this machine is"):
        pace = run.pace()
    estimate = run.estimate(pace)
    whole = _minutes(sum(estimate.values()))
    _note(f"{many(len(run.rows), 'row')} of {many(run.plan.questions, 'question')}: about {whole}")
    try:
        with _drawn() as told:
            run.told = told
            run.run(pace)
    except KeyboardInterrupt:
        files = [str(file) for file in (report.json_file, report.markdown_file) if file is not None]
        kept = f"; what was measured is in {' and '.join(files)}" if files and report.rows else ""
        raise InterruptedWorkError(f"interrupted{kept}") from None


@contextmanager
def _drawn() -> Iterator[Callable[[str, float, float], None]]:
    """Progress on stderr: what is being done, how much of all is done, the time left."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("", total=1.0, left="")

        def told(title: str, share: float, left: float) -> None:
            bars.update(task, description=title, completed=share, left=f"{_minutes(left)} left")

        yield told


def _note(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
