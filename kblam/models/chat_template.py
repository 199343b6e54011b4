"""A tokenizer's chat template, with places for texts that it never sees: see `rendering`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from kblam.errors import GenerationError, GenerationFailedError
from kblam.models import rendering
from kblam.models.rendering import Template

MARK = "\ue000question\ue000"
SYSTEM_MARK = "\ue000system\ue000"


def chat_template_of(tokenizer: PreTrainedTokenizerBase, *, with_system: bool = False) -> str | None:
    """The text of a tokenizer's chat template around `MARK`, ready for the answer; None if it has none.

    Args:
        with_system: a system message comes first, around `SYSTEM_MARK`.

    Raises:
        GenerationFailedError: it raises an error, needs more time or memory than any template should, or leaves the
            question out: no question can be put to the model.
        RenderingError: the process that renders it failed.
    """
    if (template := _template_of(tokenizer)) is None:
        return None
    marks = (SYSTEM_MARK, MARK) if with_system else (MARK,)
    try:
        return _put(rendering.rendered(template, ("system", "user") if with_system else ("user",)), marks)
    except GenerationFailedError:
        raise
    except GenerationError as error:  # nobody chose these roles but the model's own template
        raise GenerationFailedError(str(error)) from error


def conversation_of(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> str | None:
    """A conversation in a tokenizer's chat template, ready for the next answer; None if it has none.

    The template is rendered once for each sequence of roles, and never sees a text.

    Args:
        turns: (role, text) of each message; roles are "system", "user" and "assistant".

    Raises:
        GenerationError: it cannot be used for this order of roles.
        RenderingError: the process that renders it failed.
    """
    if (template := _template_of(tokenizer)) is None:
        return None
    roles = tuple(role for role, _ in turns)
    return _put(rendering.rendered(template, roles, ahead=True), [text for _, text in turns])


def is_ready(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> bool:
    """Whether nothing has to be rendered for messages of these roles: whoever asks does not wait for a process.

    Raises:
        GenerationFailedError: the tokenizer has several templates, and none for this.
    """
    template = _template_of(tokenizer)
    return template is None or rendering.is_known(template, tuple(roles))


def make_ready(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> None:
    """Renders what messages of these roles need, in a process that takes a second or two to start.

    Raises:
        GenerationError: as `conversation_of`.
    """
    if (template := _template_of(tokenizer)) is not None:
        rendering.rendered(template, tuple(roles), ahead=True)


def filled(template: str, question: str, system: str = "") -> str:
    """A template with texts in place of its marks; what stands in a text is never taken for a mark."""
    texts = {MARK: question, SYSTEM_MARK: system}
    return re.sub("|".join(texts), lambda mark: texts[mark[0]], template)


def _template_of(tokenizer: PreTrainedTokenizerBase) -> Template | None:
    if tokenizer.chat_template is None:
        return None
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise rendering.unusable(str(error), GenerationFailedError) from error
    return Template(template, json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True))


def _put(text: str, texts: Sequence[str]) -> str:
    """A text with others in the place of its marks; what looks like a mark and is none stays."""
    by_mark = {rendering.mark(place): one for place, one in enumerate(texts)}
    return rendering.MARK.sub(lambda found: by_mark.get(found[0], found[0]), text)
