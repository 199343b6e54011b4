"""Questions as texts for vLLM, to the letter those of `kblam ask`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig
from kblam.errors import GenerationError
from kblam.generation.prompt import TOKENIZING, check_question
from kblam.models.families import FAMILIES
from kblam.models.prompt import family_template, text_of


class Prompts:
    """How one model is asked.

    Args:
        tokenizer: of the model.
        adapter: its config.
        model_type: of the model's text config.
        has_chat_template: whether vLLM has one for conversations with the model alone.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        adapter: AdapterConfig,
        model_type: str,
        *,
        has_chat_template: bool,
    ) -> None:
        self.has_chat_template = has_chat_template
        self._tokenizer, self._template = tokenizer, adapter.prompt
        family = FAMILIES.get(model_type)
        self._family_template = None if family is None else family_template(family, tokenizer)

    def make_ready(self) -> None:
        """Renders the chat template where questions need it, in a process that takes seconds.

        The first question would have all others wait for it. What cannot be is told to whoever asks.
        """
        with suppress(GenerationError):
            self.question("ready?")

    def question(self, text: str) -> tuple[str, bool]:
        """A question with a base, and whether the tokenizer adds its special tokens.

        Raises:
            GenerationError: it is empty, or no text.
        """
        return self._filled(text, self._template or self._family_template)

    def alone(self, turns: Sequence[tuple[str, str]]) -> tuple[str, bool]:
        """As `question`, of the model alone, where there is no chat template.

        Args:
            turns: (role, text) of each message.

        Raises:
            GenerationError: there are several messages, or the text is none.
        """
        if len(turns) != 1 or turns[0][0] != "user":
            raise GenerationError("this model has no chat template, so it can be asked one user message at a time only")
        return self._filled(turns[0][1], self._family_template)

    def _filled(self, text: str, template: str | None) -> tuple[str, bool]:
        check_question(text)
        with TOKENIZING:
            return text_of(text, template, self._tokenizer)
