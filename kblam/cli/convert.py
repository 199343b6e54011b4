"""`kblam convert`: a checkpoint of microsoft/KBLaM or AtlasKV as an adapter folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kblam.cli.errors import CommandError
from kblam.cli.options import AsJson
from kblam.cli.output import out, print_json, waiting


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Model folder that train.py of microsoft/KBLaM or AtlasKV wrote."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The adapter folder to write.")],
    encoder_file: Annotated[
        Path | None,
        typer.Argument(metavar="[ENCODER]", help="encoder.pt; default: in CHECKPOINT_encoder, then in CHECKPOINT."),
    ] = None,
    query_head: Annotated[
        Path | None,
        typer.Option("--query-head", help="Upstream's separate query head file, if there is one."),
    ] = None,
    sentence_encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Sentence encoder it was trained with (minilm, openai:MODEL, ...): a checkpoint does not say. Without "
            "it any knowledge base of the right width is accepted.",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Base model to record; default: what config.json says."),
    ] = None,
    layer_frequency: Annotated[
        int | None,
        typer.Option(min=1, help="Every how many layers one sees knowledge; default: recorded, or what fits."),
    ] = None,
    knowledge_scale: Annotated[
        float | None,
        typer.Option(help="C of log C - log M; upstream's evaluation passes 100."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of microsoft/KBLaM or AtlasKV (encoder.pt and a model folder) to an adapter folder.

    Pickles are read as plain tensors: no code in a checkpoint is ever run.

    Example: kblam convert step_20000 step_20000_encoder/encoder.pt -o my-adapter --encoder minilm --knowledge-scale 100
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"{output} exists; choose another folder, or remove it first")
    with waiting("reading the checkpoint"):
        from kblam.adapter.upstream import load_upstream
        from kblam.folder import check_new_folder, new_folder
        from kblam.knowledge import load_encoder
        from kblam.models.loading import lasting_name

        check_new_folder(output)
        adapter = load_upstream(
            checkpoint,
            encoder_file,
            query_head_path=query_head,
            layer_frequency=layer_frequency,
            knowledge_scale=knowledge_scale,
            encoder=None if sentence_encoder is None else load_encoder(sentence_encoder).fingerprint,
            base_model=None if base_model is None else lasting_name(base_model),
        )
        with new_folder(output, overwrite=False) as fresh:
            adapter.save_pretrained(fresh)
    config = adapter.config
    if as_json:
        print_json({"folder": str(output), "config": config.to_dict()})
        return
    heads = "separate query heads" if config.separate_query_head else "no separate query heads"
    out.print(
        f"{output}: {config.projector} adapter, P = {config.embedding_dim}, layers {config.knowledge_layers}, {heads}",
        markup=False,
        soft_wrap=True,
    )
    if config.encoder is None:
        out.print("its sentence encoder is not recorded; convert with --encoder to have it checked", style="dim")
