"""Knowledge that others have, as triples: files of RDF, tables, graphs, databases, and graphs in memory.

    from kblam.data.importing import import_into, open_sources

    report = import_into("facts.kb", open_sources(["dump.nt.gz"]), load_encoder("minilm"))

Each source is a reader of its own format; what it says is put on disk until all names are known (`stage.py`), and then
given as triples, one for each (name, property). Several values of one property are joined with commas.
"""

from __future__ import annotations

from kblam.data.importing.databases import BoltGraph, NebulaGraph
from kblam.data.importing.embedded import LadybugGraph
from kblam.data.importing.in_memory import LlamaIndexGraph, NetworkxGraph
from kblam.data.importing.items import BadRows, Readable
from kblam.data.importing.languages import Languages
from kblam.data.importing.rdf import RdflibGraph
from kblam.data.importing.run import ImportReport, Reading, import_into
from kblam.data.importing.sources import open_sources
from kblam.knowledge.renaming import parse_renames

__all__ = [
    "BadRows",
    "BoltGraph",
    "ImportReport",
    "LadybugGraph",
    "Languages",
    "LlamaIndexGraph",
    "NebulaGraph",
    "NetworkxGraph",
    "RdflibGraph",
    "Readable",
    "Reading",
    "import_into",
    "open_sources",
    "parse_renames",
]
