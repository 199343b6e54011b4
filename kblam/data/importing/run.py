"""An import: sources are read to their end, then triples are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kblam.counts import many
from kblam.data.importing.items import Bad, BadRows, Dropped, Label, Losses, Readable, Statement
from kblam.data.importing.languages import Languages
from kblam.data.importing.stage import Stage
from kblam.errors import DataError, TripleFormatError, argument
from kblam.knowledge import BuildReport, build, write_triples
from kblam.knowledge.encoders.base import Encoder, Progress
from kblam.knowledge.files import FORMAT_OF_SUFFIX, check_written_to
from kblam.knowledge.files.trouble import Trouble
from kblam.knowledge.target import check_base_target
from kblam.knowledge.triples import Triple

_TOLD = 5000  # statements between two calls of `progress`


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        sources: their names.
        read: facts that the sources state, those that were left out and those that cannot be read included.
        bad: rows that could not be read, and were left out.
        dropped: what was left out on purpose, by reason.
        losses: the same as sentences, with examples.
        triples: that came of it.
        several: properties with more than one value; the values were joined.
        repeated: statements that say again what another said.
        unnamed: things that have only an id.
        told_apart: things that share their name with another, and have their id behind it.
        build: what the knowledge base did with the triples; None where a file was written.
    """

    sources: list[str] = field(default_factory=list)
    read: int = 0
    bad: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    triples: int = 0
    several: int = 0
    repeated: int = 0
    unnamed: int = 0
    told_apart: int = 0
    build: BuildReport | None = None


class Reading:
    """Sources read to their end: `triples()` gives what they say. Close it, or use it in a `with` block.

    Args:
        sources: read in this order.
        languages: of texts that have one.
        renames: other words for properties, by the name they would have without; as `new_words` finds them.
        bad_rows: takes the rows that cannot be read; without it they are an error, all of them told at once.
        strict: what would be left out on purpose is an error too.
        progress: `progress(done, 0)` in facts.

    Raises:
        BadLinesError, TripleFormatError: rows cannot be read, or with `strict` would be left out; nothing was written.
        DataError: the sources say nothing or lack a property that is to be renamed, a package is missing, or there is
            no room for what was read.
        DataServerError: a database does not answer.
    """

    def __init__(
        self,
        sources: Sequence[Readable],
        *,
        languages: Languages | None = None,
        renames: Mapping[str, str] | None = None,
        bad_rows: BadRows | None = None,
        strict: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.report = ImportReport(sources=[source.name for source in sources])
        self._losses = Losses()
        self._stage = Stage(languages or Languages(), self._losses, renames)
        self._progress = progress
        try:
            for number, source in enumerate(sources, start=1):
                self._stage.source = number if len(sources) > 1 else 0
                self._read(source, bad_rows)
            if bad_rows is not None:
                bad_rows.all_read()
            self._count = self._stage.finish()
            if strict:
                self._refuse_losses()
            if not self._count:
                raise DataError(self._nothing())
        except BaseException:
            self.close()
            raise

    def _refuse_losses(self) -> None:
        self._stage.look_ahead()
        if lines := [*self._losses.lines(), *self._stage.beyond.lines()]:
            flag = argument("strict=True", "--strict", ("data import",))
            raise DataError(f"{flag} leaves nothing out: {'; '.join(lines)}")

    def _read(self, source: Readable, bad_rows: BadRows | None) -> None:
        trouble = Trouble(
            Path(source.name), skip=argument("bad_rows=BadRows(FILE)", "--skip-bad FILE", ("data import",))
        )
        try:
            for item in source.items():
                self._take(item, trouble, bad_rows)
        except TripleFormatError as end:
            if trouble.count:
                raise trouble.error(end) from None
            raise
        if trouble.count:
            raise trouble.error()

    def _take(self, item: object, trouble: Trouble, bad_rows: BadRows | None) -> None:
        report = self.report
        if isinstance(item, Label):
            self._stage.add(item)
            return
        if isinstance(item, Dropped):
            report.read += item.count if item.is_fact else 0
        else:
            report.read += 1
        if self._progress is not None and report.read % _TOLD == 0:
            self._progress(report.read, 0)
        if isinstance(item, Triple):
            self._stage.add_triple(item)
        elif isinstance(item, Statement):
            self._stage.add(item)
        elif isinstance(item, Dropped):
            self._losses.add(item)
        elif isinstance(item, Bad):
            if bad_rows is None:
                trouble.add(item.error.line, item.error)
            else:
                bad_rows.add(item.error)
                report.bad += 1

    def _nothing(self) -> str:
        names = ", ".join(self.report.sources)
        why = "; ".join(self._losses.lines())
        rows = many(self.report.bad, "row")
        bad = f"; {rows} cannot be read" if self.report.bad else ""
        return f"{names}: no fact in it{bad}{f'; left out: {why}' if why else ''}"

    def __len__(self) -> int:
        return self._count

    def triples(self) -> Iterator[Triple]:
        """One for each (name, property). After the last the report is complete."""
        count = 0
        for count, triple in enumerate(self._stage.triples(), start=1):  # noqa: B007 - the last number is the count
            yield triple
        stage, report = self._stage, self.report
        report.triples = count
        report.dropped = {**self._losses.counts(), **stage.beyond.counts()}
        report.losses = [*self._losses.lines(), *stage.beyond.lines()]
        report.several, report.repeated = stage.several, stage.repeated
        report.unnamed, report.told_apart = stage.unnamed, stage.told_apart

    def close(self) -> None:
        """Removes what was put on disk."""
        self._stage.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def import_into(
    target: str | Path,
    sources: Sequence[Readable],
    encoder: Encoder | None = None,
    *,
    languages: Languages | None = None,
    renames: Mapping[str, str] | None = None,
    bad_rows: BadRows | None = None,
    strict: bool = False,
    overwrite: bool = True,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> ImportReport:
    """Write what sources say into a knowledge base, or into a file of triples.

    The sources are read to their end first, so a bad row costs nothing. A knowledge base then takes `batch_size`
    triples a transaction: after an interruption the same call goes on where it stopped. A file is written whole.

    Args:
        target: a knowledge base, made when nothing is there; or a file of triples, by its suffix.
        encoder: of a knowledge base; needed for one.
        languages, renames, bad_rows, strict, progress: as `Reading`; while writing `progress` counts triples.
        overwrite: replace a file of triples that is there.

    Raises:
        what `Reading`, `kblam.knowledge.build` and `kblam.knowledge.write_triples` raise.
    """
    path = Path(target)
    is_file = path.suffix.lower() in FORMAT_OF_SUFFIX
    if not is_file and encoder is None:
        raise DataError(f"{path} is a knowledge base, and needs an encoder; or name a file of triples: .jsonl, .csv")
    if is_file:
        check_written_to(path, overwrite=overwrite)
    else:
        check_base_target(path)
    with Reading(
        sources, languages=languages, renames=renames, bad_rows=bad_rows, strict=strict, progress=progress
    ) as reading:
        if is_file:
            write_triples(path, reading.triples(), overwrite=overwrite)
        else:
            assert encoder is not None
            reading.report.build = build(path, _Counted(reading), encoder, batch_size=batch_size, progress=progress)
        return reading.report


class _Counted:
    """Triples whose number is known."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __len__(self) -> int:
        return len(self._reading)

    def __iter__(self) -> Iterator[Triple]:
        return self._reading.triples()
