"""Where a question looks: attention mass of knowledge tokens at each token of a question, as numbers and as a picture.

Pictures need matplotlib, which the extra `eval` brings.
"""

from __future__ import annotations

import importlib.util
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kblam.errors import EvaluationError
from kblam.evaluation.force import attached, in_force
from kblam.evaluation.loop import Subject
from kblam.generation.prompt import encode_question
from kblam.knowledge import KnowledgeBase, Triple
from kblam.whole import whole
from kblam_kernels import evidence

COLUMNS = 10

# Inches of a token with its text, and of all tokens of one picture: matplotlib draws up to 65,535 pixels.
_TOKEN, _WIDEST, _DPI = 0.26, 220.0, 110


@dataclass(frozen=True)
class Heat:
    """The evidence layer's attention while one prompt is read, mean of its heads.

    Args:
        question: as asked.
        tokens: of the prompt, as text, N of them.
        triples: the C that got most at any token, the strongest first.
        mass: float32 (N, C), the share of each triple at each token.
        rest: float32 (N,), the share of all other triples together.
        asked: for each triple, whether it is what was asked for.
    """

    question: str
    tokens: list[str]
    triples: list[Triple]
    mass: np.ndarray
    rest: np.ndarray
    asked: list[bool]


@torch.inference_mode()
def heat_of(
    subject: Subject,
    knowledge_base: KnowledgeBase,
    question: str,
    *,
    asked: Sequence[tuple[str, str]] = (),
    columns: int = COLUMNS,
) -> Heat:
    """Runs one prompt and keeps the masses of its strongest triples.

    Args:
        subject: whose model reads.
        knowledge_base: in force.
        question: of the prompt.
        asked: (name, property) of what is asked for.
        columns: C, at most.
    """
    attachment = attached(subject.model)
    ids = encode_question(question, attachment, subject.tokenizer)
    rows: list[torch.Tensor] = []

    def observe(*, index: torch.Tensor | None, **attention: Any) -> None:
        query, lse = attention["query"], attention["lse"]
        weight = torch.full((), 1 / query.shape[1], dtype=torch.float32, device=lse.device)
        for place in range(query.shape[2]):
            mass = evidence(
                query[:, :, place : place + 1],
                attention["knowledge"],
                lse[:, :, place : place + 1],
                scale=attention["scale"],
                knowledge_bias=attention["bias"],
                knowledge_range=attention["knowledge_range"],
                row_weight=weight,
                int8_products=attention["int8_products"],
                backend=attention["backend"],
            )[0]
            if index is not None:
                mass = mass.new_zeros(len(knowledge_base)).index_put((index[0],), mass)
            rows.append(mass.float().cpu())

    with in_force(attachment, knowledge_base, [question]) as resident, attachment.observing(observe):
        subject.model(torch.tensor([ids], device=attachment.input_device))
        mass = torch.stack(rows)
        places = mass[:, : len(knowledge_base)].amax(0).topk(min(columns, len(knowledge_base))).indices.tolist()
        assert resident is not None
        triples = [resident.triples_at([place])[0] for place in places]
    chosen = mass[:, places]
    return Heat(
        question=question,
        tokens=[str(subject.tokenizer.decode([token])) for token in ids],
        triples=triples,
        mass=chosen.numpy(),
        rest=(mass.sum(1) - chosen.sum(1)).clamp(min=0).numpy(),
        asked=[triple.identity in set(asked) for triple in triples],
    )


_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps", ".ps")


def check_drawing(path: Path) -> None:
    """Refuses early what `draw` could not do later.

    Raises:
        EvaluationError: matplotlib is not installed, or writes no picture of that ending.
    """
    if path.suffix.lower() not in _PICTURES:  # matplotlib would refuse it, or write to another name
        raise EvaluationError(f"{path.name!r} ends as no picture does; name it {', '.join(_PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise EvaluationError(
            "a picture of the attention needs matplotlib, which is not installed: pip install 'kblam-kernels[eval]'"
        )


def draw(heats: Sequence[Heat], path: Path) -> None:
    """One picture of all: a panel a question, a row a triple, a column a token of the prompt.

    Of prompts beyond some 850 tokens columns get narrower, and not each has its text below.

    Raises:
        EvaluationError: as `check_drawing`.
    """
    check_drawing(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [len(heat.triples) + 1 for heat in heats]
    longest = max(len(heat.tokens) for heat in heats)
    size = 4.5 + min(_TOKEN * longest, _WIDEST), sum(0.24 * height + 1.15 for height in heights)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(heats), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, heat in zip(panels, heats, strict=True):
        image = panel.imshow(
            np.column_stack([heat.mass, heat.rest]).T, aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="none"
        )
        labels = [f"{triple.key_text}: {triple.value}" for triple in heat.triples] + ["all other triples"]
        panel.set_yticks(range(len(labels)), [_fitted(label) for label in labels], fontsize=8, parse_math=False)
        for place, right in enumerate(heat.asked):
            if right:
                panel.get_yticklabels()[place].set_weight("bold")
        every = math.ceil(len(heat.tokens) * _TOKEN / _WIDEST)  # all panels are as wide as the picture
        tokens = [_shown(token) for token in heat.tokens[::every]]
        panel.set_xticks(range(0, len(heat.tokens), every), tokens, fontsize=7, rotation=60, parse_math=False)
        for label in panel.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        panel.set_title(textwrap.shorten(heat.question, 110), fontsize=9, loc="left", parse_math=False)
    figure.colorbar(image, ax=panels.tolist(), label="share of the evidence layer's attention", shrink=0.6, pad=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), whole(path) as unfinished:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.savefig(unfinished, dpi=_DPI)


def _fitted(label: str, width: int = 48) -> str:
    """On one line, not too long."""
    line = " ".join(label.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _shown(token: str) -> str:
    return token.strip() or token.replace("\n", "↵").replace(" ", "␣")
