"""`kblam integrate`: base model, adapter and knowledge base in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kblam.cli.kb import file_of
from kblam.cli.options import AsJson, Overwrite
from kblam.cli.output import out, print_json, waiting


def integrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base model: folder or hub name.")],
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Adapter: folder or hub name.")],
    kb: Annotated[Path, typer.Argument(metavar="KB", help="Knowledge base file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The model folder to write.")],
    include_base: Annotated[
        bool, typer.Option("--include-base", help="Copy the base model's weights too: the folder then needs nothing.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of a hub model; its commit is recorded.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a model folder: `kblam ask QUESTION --model FOLDER` then needs nothing else.

    Example: kblam integrate meta-llama/Llama-3.2-1B-Instruct my-adapter facts.kb -o my-model
    """
    with waiting("reading model and adapter"):
        from kblam.folder import integrate as write
        from kblam.folder import read_manifest
        from kblam.models.loading import quiet_libraries

        quiet_libraries()
        write(model, adapter, file_of(kb), output, revision=revision, include_base=include_base, overwrite=overwrite)
        manifest = read_manifest(output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    if as_json:
        print_json(
            {
                "folder": str(output),
                "base": manifest.base,
                "revision": manifest.revision,
                "base_included": manifest.base_included,
                "dtype": manifest.dtype,
                "bytes": size,
            }
        )
        return
    where = "its weights included" if manifest.base_included else "referred to, not copied"
    out.print(f"{output}: {size / 2**20:,.1f} MiB; base model {manifest.base} ({where})", markup=False, soft_wrap=True)
    out.print(f'ask it: kblam ask "..." --model {output}', style="dim", markup=False, soft_wrap=True)
