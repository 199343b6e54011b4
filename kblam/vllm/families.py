"""Which of vLLM's model classes can attend to knowledge, and where their attention differs from Llama's."""

from __future__ import annotations

from dataclasses import dataclass

from kblam.errors import EngineError

# Before the name of a Hugging Face architecture: the same model with knowledge.
PREFIX = "Knowledge"


@dataclass(frozen=True)
class ServedFamily:
    """A model class of vLLM.

    Args:
        architecture: its name in a checkpoint's config.json.
        module: in `vllm.model_executor.models`.
        query_norm: attribute of the attention module that normalises queries per head; what a query head makes goes
            through it as well, with a question head it does not (`kblam.models.families`).
        merged: whether the checkpoint stores queries, keys and values as one matrix, and gate and up too. Elsewhere
            vLLM has merged them.
    """

    architecture: str
    module: str
    query_norm: str | None = None
    merged: bool = False


ARCHITECTURES: dict[str, ServedFamily] = {
    family.architecture: family
    for family in (
        ServedFamily("LlamaForCausalLM", "llama"),
        ServedFamily("MistralForCausalLM", "mistral"),
        ServedFamily("Qwen2ForCausalLM", "qwen2"),
        ServedFamily("Qwen3ForCausalLM", "qwen3", query_norm="q_norm"),
        ServedFamily("Phi3ForCausalLM", "phi3", merged=True),
        ServedFamily("GemmaForCausalLM", "gemma"),
        ServedFamily("Gemma3ForCausalLM", "gemma3", query_norm="q_norm"),
    )
}


def family_of(architecture: str) -> ServedFamily:
    """The row of an architecture, with or without `PREFIX`.

    Raises:
        EngineError: there is none.
    """
    found = ARCHITECTURES.get(architecture.removeprefix(PREFIX))
    if found is None:
        raise EngineError(
            f"{architecture} cannot attend to knowledge in vLLM; these can: {', '.join(ARCHITECTURES)}. Serve another "
            "one with transformers (kblam.attach)"
        )
    return found
