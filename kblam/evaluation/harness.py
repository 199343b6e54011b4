"""A model with a knowledge base attached, as lm-evaluation-harness drives it (extra `harness`).

    import lm_eval
    from kblam.evaluation.harness import KnowledgeLM

    lm_eval.simple_evaluate(model=KnowledgeLM(model, tokenizer, knowledge_base), tasks=["arc_easy"])

Run once with `knowledge_base=None` and once with a large irrelevant one, it shows what the base costs the model's own
ability. Import this module only where `lm_eval` is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.errors import EvaluationError
from kblam.evaluation.force import attached, in_force
from kblam.generation import Session
from kblam.knowledge import KnowledgeBase

try:
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise EvaluationError(
        f"the harness needs lm_eval, which cannot be imported ({error}): pip install 'kblam-kernels[harness]'"
    ) from error


class KnowledgeLM(HFLM):
    """`HFLM` of a model that an adapter is attached to.

    A row of tokens counts as one question: its text is what a question head sees, and with `falls_back` a row that
    `Session(unknown="base")` would leave to the base model is computed by it alone.

    Args:
        model, tokenizer: with an adapter attached.
        knowledge_base: in force for every request; None is the base model alone.
        falls_back: as `Session(unknown="base")` does; needs a calibrated adapter.
        options: of `HFLM`: batch_size, max_length, ...

    Raises:
        EvaluationError: nothing is attached, or the adapter is not calibrated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        knowledge_base: KnowledgeBase | None,
        *,
        falls_back: bool = True,
        **options: Any,
    ) -> None:
        attachment = attached(model)
        if falls_back and knowledge_base is not None and attachment.config.known_above is None:
            raise EvaluationError(
                "falls_back needs a mass to decide by, and this adapter has no known_above: pass falls_back=False"
            )
        super().__init__(pretrained=model, tokenizer=tokenizer, **options)
        self._attachment = attachment
        self._knowledge_base = knowledge_base
        self._session = None
        if falls_back and knowledge_base is not None:
            self._session = Session(model, knowledge_base, tokenizer=tokenizer, unknown="base")

    @torch.no_grad()
    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        found: list[Tensor] = []
        parts = self._split(self._known(inps))
        for base, rows in parts:
            with in_force(self._attachment, base, self._texts(inps[rows])):
                found.append(super()._model_call(inps[rows], attn_mask, labels))
        order: Tensor = torch.cat([rows for _, rows in parts]).argsort()
        return torch.cat(found)[order]

    @torch.no_grad()
    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        found: list[tuple[Tensor, Tensor]] = []
        for base, rows in self._split(self._known(context)):
            given = {
                key: value[rows] if isinstance(value, Tensor) else value for key, value in generation_kwargs.items()
            }
            with in_force(self._attachment, base, self._texts(context[rows])):
                found.append((rows, super()._model_generate(context[rows], max_length, stop, **given)))
        width = max(said.shape[1] for _, said in found)
        whole = context.new_full((len(context), width), self.tokenizer.pad_token_id)
        for rows, said in found:
            whole[rows, : said.shape[1]] = said
        return whole

    def _split(self, known: Tensor) -> list[tuple[KnowledgeBase | None, Tensor]]:
        """(knowledge base or none, rows), without empty ones."""
        parts = [(self._knowledge_base, known.nonzero()[:, 0]), (None, (~known).nonzero()[:, 0])]
        return [(base, rows) for base, rows in parts if len(rows)]

    def _known(self, inps: Tensor) -> Tensor:
        """Which rows are answered with knowledge, bool (B,), as a session decides it."""
        if self._session is None:
            return torch.full((len(inps),), self._knowledge_base is not None, device=inps.device)
        rows = [self._without_padding(row) for row in inps.tolist()]
        decisions = self._session.decisions(self._texts(inps), prompts=rows, batch_size=max(1, len(rows)))
        return torch.tensor([not decision.is_base for decision in decisions], device=inps.device)

    def _texts(self, inps: Tensor) -> list[str]:
        # In many vocabularies 0, which the harness pads with, is a word or a mark.
        rows = map(self._without_padding, inps.tolist())
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]

    def _without_padding(self, row: list[int]) -> list[int]:
        """The harness pads with 0 on the right for likelihoods, with the pad token on the left for generation."""
        end = len(row)
        while end > 1 and row[end - 1] == 0:
            end -= 1
        start = 0
        while start < end - 1 and row[start] == self.tokenizer.pad_token_id:
            start += 1
        return row[start:end]
