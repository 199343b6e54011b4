"""From what a user names, a path or an address, to the source that reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from kblam.data.importing import graphrag, rdf
from kblam.data.importing.compressed import is_compressed, plain_suffix
from kblam.data.importing.databases import BOLT, BoltGraph, NebulaGraph
from kblam.data.importing.embedded import LadybugGraph
from kblam.data.importing.graphml import GraphMLFile
from kblam.data.importing.items import Readable
from kblam.data.importing.tables import NodesFile, TableFile
from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.columns import Columns
from kblam.knowledge.files import FORMAT_OF_SUFFIX
from kblam.knowledge.files.lines import check_is_file

logger = logging.getLogger("kblam")

_LADYBUG = (".lbug", ".lbdb", ".kuzu")


def open_sources(
    places: Sequence[str],
    *,
    columns: Columns | None = None,
    query: str | None = None,
    nodes: Path | None = None,
    id_column: str = "id",
) -> list[Readable]:
    """The sources that paths and addresses mean, by suffix and scheme.

    Args:
        places: files, folders of GraphRAG, LightRAG or LlamaIndex, and addresses of databases.
        columns: of tables and queries: which column is which field.
        query: for databases, in place of the whole graph.
        nodes: a file that names the ids in an edge list.
        id_column: its column of ids.

    Raises:
        TripleFormatError: a file has another suffix than those that are known, or is not there.
        DataError: a place is named twice, or an option fits none of them.
    """
    found = [source for place in places for source in _sources(place, columns, query, by_id=nodes is not None)]
    names = [source.name for source in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{twice[0]} is named twice; name each source once")
    if query is not None and not any(isinstance(source, BoltGraph | LadybugGraph) for source in found):
        raise DataError("a query is for databases: an address (neo4j://HOST), or a file of ladybug (.lbug)")
    of_columns = TableFile | BoltGraph | LadybugGraph
    if columns is not None and not any(isinstance(source, of_columns) for source in found):
        raise DataError("columns are chosen in tables, and in what a query for a database returns; none was named")
    if nodes is not None:
        if not any(isinstance(source, TableFile) for source in found):
            raise DataError("a file of nodes is for edge lists in tables, and none was named")
        check_is_file(nodes)
        found.append(NodesFile(nodes, id_column))
    return found


def _sources(place: str, columns: Columns | None, query: str | None, *, by_id: bool) -> Iterator[Readable]:
    scheme = urlsplit(place).scheme if "://" in place else ""
    if scheme in BOLT:
        yield BoltGraph(place, query, columns)
    elif scheme == "nebula":
        yield NebulaGraph(place)
    elif scheme:
        raise DataError(
            f"{place}: nothing is fetched from the web; download it, or name a database: "
            f"{', '.join(f'{one}://' for one in (*BOLT, 'nebula'))}"
        )
    else:
        path = Path(place).expanduser()
        yield from _in_folder(path) if path.is_dir() else (_file(path, columns, query, by_id=by_id),)


def _file(path: Path, columns: Columns | None, query: str | None, *, by_id: bool) -> Readable:
    check_is_file(path)
    suffix = plain_suffix(path)
    if suffix in rdf.SUFFIXES:
        return rdf.RdfFile(path)
    if suffix == ".graphml":
        return GraphMLFile(path)
    if suffix in _LADYBUG:
        return LadybugGraph(path, query, columns)
    if suffix in FORMAT_OF_SUFFIX and is_compressed(path):
        raise TripleFormatError("only RDF and GraphML are read compressed; decompress it", path=path)
    if suffix not in FORMAT_OF_SUFFIX:
        known = ", ".join((*FORMAT_OF_SUFFIX, *rdf.SUFFIXES, ".graphml", _LADYBUG[0]))
        raise TripleFormatError(f"cannot tell the format from {path.name!r}; name it {known}", path=path)
    if graphrag.is_llama_index(path):
        return graphrag.LlamaIndexFile(path)
    if columns is None and not by_id and (kind := graphrag.kind_of_table(path)):
        return graphrag.EntityTable(path) if kind == "entities" else graphrag.RelationTable(path)
    return TableFile(path, columns, by_id=by_id)


def _in_folder(folder: Path) -> Iterator[Readable]:
    """What tools leave in their folders: the first of their sets of files that is there."""
    for names in graphrag.IN_FOLDERS:
        if there := [folder / name for name in names if (folder / name).is_file()]:
            logger.info("%s: read %s", folder, ", ".join(path.name for path in there))
            yield from (_file(path, None, None, by_id=False) for path in there)
            return
    known = "; ".join(" and ".join(names) for names in graphrag.IN_FOLDERS)
    raise TripleFormatError(f"a folder with none of the files that are known ({known}); name a file", path=folder)
