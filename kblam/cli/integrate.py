"""`kblam integrate`: base model, adapter and knowledge base in one folder."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from kblam import shipped
from kblam.cli.errors import CommandError
from kblam.cli.files import file_of
from kblam.cli.options import AsJson, Overwrite, Storage
from kblam.cli.output import out, print_json, waiting


def integrate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The model folder to write.")],
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL ADAPTER KB", help="Base model and adapter, each a folder or hub name; knowledge base file."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="In place of MODEL.")] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter", "-a", help="In place of ADAPTER; for smollm2 and tiny the one that comes with kblam will do."
        ),
    ] = None,
    kb: Annotated[Path | None, typer.Option("--kb", "-k", help="In place of KB.")] = None,
    include_base: Annotated[
        bool, typer.Option("--include-base", help="Copy the base model's weights too: the folder then needs nothing.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of a hub model; its commit is recorded.")
    ] = None,
    storage: Storage = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a model folder: `kblam ask QUESTION --model FOLDER` then needs nothing else.

    Example: kblam integrate meta-llama/Llama-3.2-1B-Instruct my-adapter facts.kb -o my-model
    """
    base, adapter, file = _parts(list(parts or []), model, adapter, kb, output)
    with waiting("reading model and adapter"):
        from kblam.folder import integrate as write
        from kblam.folder import read_manifest
        from kblam.models.loading import quiet_libraries

        quiet_libraries()
        write(
            base,
            adapter,
            file_of(file),
            output,
            revision=revision,
            include_base=include_base,
            storage=storage,
            overwrite=overwrite,
        )
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
                "storage": manifest.storage,
                "bytes": size,
            }
        )
        return
    where = "its weights included" if manifest.base_included else "referred to, not copied"
    out.print(f"{output}: {size / 2**20:,.1f} MiB; base model {manifest.base} ({where})", markup=False, soft_wrap=True)
    out.print(f'ask it: kblam ask "..." --model {output}', style="dim", markup=False, soft_wrap=True)


def _parts(
    given: list[str], model: str | None, adapter: str | None, kb: Path | None, output: Path
) -> tuple[str, str, Path]:
    """Model, adapter and knowledge base; what no option names is taken from `given`, in this order.

    Raises:
        CommandError: one is missing, or there are too many.
    """
    if model is None and given:
        model = given.pop(0)
    own = None if model is None else shipped.parts_of(model)
    if adapter is None and len(given) < (kb is None) + 1 and own is not None:
        adapter = str(own[1])
    if adapter is None and given:
        adapter = given.pop(0)
    if kb is None and given:
        kb = Path(given.pop(0))
    parts = [quote(str(part)) for part in (model or "MODEL", adapter or "ADAPTER", kb or "KB", "-o", output)]
    command = f"kblam integrate {' '.join(parts)}"
    if model is None or adapter is None or kb is None:
        lacking = "the model" if model is None else "the adapter" if adapter is None else "the knowledge base"
        fix = "; `kblam train --model MODEL -o my-adapter` makes one" if lacking == "the adapter" else ""
        raise CommandError(f"{lacking} is missing: {command}{fix}")
    if given:
        raise CommandError(f"{' '.join(given)} is too much, since all three are named: {command}")
    return model, adapter, kb
