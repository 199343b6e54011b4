"""Options that several commands share, said once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Precision(str, Enum):
    """Of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing model folder.")]
KnowledgeFile = Annotated[Path, typer.Argument(metavar="KB", help="Knowledge base file, or a model folder.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model folder (kblam integrate), base model folder, hub name, smollm2 or tiny."),
]
AdapterSource = Annotated[
    str | None,
    typer.Option("--adapter", "-a", help="Adapter folder or hub name; a model folder has its own."),
]
Knowledge = Annotated[
    Path | None,
    typer.Option("--kb", "-k", help="Knowledge base file; a model folder has its own."),
]
EncoderKey = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="Environment variable that holds the key of an openai: encoder; default: OPENAI_API_KEY.",
    ),
]
# More are made for hours, and their list alone fills memory.
MOST_QUESTIONS = 1_000_000

Top = Annotated[int, typer.Option("--top", min=0, help="Triples of evidence to show at most.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Length limit of an answer.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: cuda where there is one."),
]
Dtype = Annotated[Precision, typer.Option("--dtype", help="Of the weights; auto keeps the checkpoint's.")]
Storage = Annotated[
    str,
    typer.Option("--storage", help="Dtype of the knowledge: auto, float16, bfloat16, int8, float8_e4m3fn, float32."),
]
QueryStorage = Annotated[
    str,
    typer.Option("--query-storage", help="Of the adapter's query heads: auto (the model's dtype), int8."),
]
PlanPin = Annotated[
    str,
    typer.Option("--plan", help="Path of the knowledge: auto, latent, dense, materialise, decode=PATH,prefill=PATH."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr how the knowledge is read, and why.")]
Backend = Annotated[str, typer.Option("--backend", help="Of the kernels; `kblam doctor` lists them.")]
