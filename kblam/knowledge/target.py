"""Whether a knowledge base can be written at a place: told before a text is encoded or a model is paid for."""

from __future__ import annotations

import os
from pathlib import Path

from kblam.errors import StoreFormatError, StoreWriteError
from kblam.knowledge.connection import located
from kblam.knowledge.files import FORMAT_OF_SUFFIX
from kblam.knowledge.schema import is_blank
from kblam.knowledge.store import Store
from kblam.whole import why_not

# Of what is imported and exported.
OTHER_KINDS = frozenset(
    (
        *(".ttl", ".turtle", ".nt", ".ntriples", ".nq", ".nquads", ".trig", ".n3", ".rdf", ".owl", ".jsonld"),
        *(".graphml", ".md", ".gz", ".bz2", ".xz", ".lbug", ".lbdb", ".kuzu"),
    )
)
_CHECK = "check that the folder exists and may be written"


def check_base_target(path: str | Path) -> None:
    """A knowledge base that is there is opened to be read, and nothing is changed.

    Raises:
        StoreFormatError: a new one would be taken for a file of triples by its ending, or another file is there.
        StoreError: the one that is there cannot be opened.
        StoreWriteError: it cannot be written there.
    """
    file = located(path)
    if not is_blank(file):
        Store.open(path, read_only=True).close()
        if not os.access(file, os.W_OK):
            raise StoreWriteError(f"{path} may not be written; change its permissions, or use a copy")
    elif file.suffix.lower() in FORMAT_OF_SUFFIX:
        better = Path(path).with_suffix(".kb")
        raise StoreFormatError(
            f"{path}: {file.suffix} is the ending of a file of triples, and this is to be a knowledge base; name it "
            f"{better}"
        )
    elif file.suffix.lower() in OTHER_KINDS:
        raise StoreFormatError(
            f"{path}: {file.suffix} is the ending of another kind of file, and this is to be a knowledge base; name it "
            f"{Path(path).with_suffix('.kb')}. `kblam data export` writes one as .ttl, .nt, .graphml or .md"
        )
    elif not file.parent.is_dir():
        raise StoreWriteError(f"{path}: there is no folder {file.parent}; {_CHECK}")
    if (reason := why_not(file)) is not None:
        raise StoreWriteError(f"cannot write {path}: {reason}; {_CHECK}")
