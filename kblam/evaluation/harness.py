"""A model with a knowledge base attached, as lm-evaluation-harness drives it (extra `harness`).

    import lm_eval
    from kblam.evaluation.harness import KnowledgeLM

    lm_eval.simple_evaluate(model=KnowledgeLM(model, tokenizer, knowledge_base), tasks=["arc_easy"])

Run once with `knowledge_base=None` and once with a large irrelevant one, it shows what the base costs the model's own
ability. Import this module only where `lm_eval` is installed.
"""

from __future__ import annotations

from collections import Counter
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
        self._unpadded: Counter[tuple[int, ...]] = Counter()  # rows that are being asked, as they are
        if falls_back and knowledge_base is not None:
            self._session = Session(model, knowledge_base, tokenizer=tokenizer, unknown="base")

    def _loglikelihood_tokens(self, requests: list[Any], *given: Any, **options: Any) -> Any:
        """As the harness does it; the rows that it is about to fill with 0 are known meanwhile."""
        read = [tuple((context + said)[:-1]) for _, context, said in requests]
        # With its cache, continuations that differ in their last token alone share one row.
        self._unpadded = Counter(
            row[-self.max_length :] for row in (dict.fromkeys(read) if self.logits_cache else read)
        )
        try:
            return super()._loglikelihood_tokens(requests, *given, **options)
        finally:
            self._unpadded = Counter()

    @torch.no_grad()
    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        found: list[Tensor] = []
        asked = [self._without_zeros(row) for row in inps.tolist()]
        parts = self._split(self._known(asked, inps.device))
        for base, rows in parts:
            with in_force(self._attachment, base, self._texts([asked[row] for row in rows.tolist()])):
                found.append(super()._model_call(inps[rows], attn_mask, labels))
        order: Tensor = torch.cat([rows for _, rows in parts]).argsort()
        return torch.cat(found)[order]

    @torch.no_grad()
    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        found: list[tuple[Tensor, Tensor]] = []
        mask = generation_kwargs.get("attention_mask")
        kept = torch.ones_like(context) if mask is None else mask
        asked = [row[seen].tolist() for row, seen in zip(context, kept.bool(), strict=True)]
        for base, rows in self._split(self._known(asked, context.device)):
            given = {
                key: value[rows] if isinstance(value, Tensor) else value for key, value in generation_kwargs.items()
            }
            with in_force(self._attachment, base, self._texts([asked[row] for row in rows.tolist()])):
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

    def _known(self, asked: list[list[int]], device: torch.device) -> Tensor:
        """Which rows are answered with knowledge, bool (B,), as a session decides it."""
        if self._session is None:
            return torch.full((len(asked),), self._knowledge_base is not None, device=device)
        decisions = self._session.decisions(self._texts(asked), prompts=asked, batch_size=max(1, len(asked)))
        return torch.tensor([not decision.is_base for decision in decisions], device=device)

    def _texts(self, asked: list[list[int]]) -> list[str]:
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in asked]

    def _without_zeros(self, row: list[int]) -> list[int]:
        """Without the 0 that the harness fills rows with on the right; in many vocabularies 0 is a word or a mark too.

        It asks the longest rows first, so of two that look alike when filled the longer one comes first. What it has
        not asked for, such as a trial of a batch's size, stays whole.
        """
        for end in range(len(row), 0, -1):
            if self._unpadded[found := tuple(row[:end])]:
                self._unpadded[found] -= 1
                return list(found)
            if row[end - 1] != 0:
                break
        return row
