"""Knowledge in vLLM: a knowledge base chosen per request, in one continuous batch. docs/vllm.md is the guide.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`. It only adds names to
vLLM's tables; what is here costs an engine without knowledge nothing.
"""

from __future__ import annotations

from kblam.vllm.families import ARCHITECTURES, PREFIX

__all__ = ["architecture_of", "register"]


def architecture_of(architecture: str) -> str:
    """The name under which vLLM serves a Hugging Face architecture with knowledge, for `hf_overrides`.

    Raises:
        EngineError: there is no such family here.

    Example:
        >>> from kblam.vllm import architecture_of
        >>> architecture_of("LlamaForCausalLM")
        'KnowledgeLlamaForCausalLM'
    """
    from kblam.vllm.families import family_of

    return PREFIX + family_of(architecture).architecture


def register() -> None:
    """Tells vLLM of the model classes, and of the checks that it makes before it starts an engine with one of them."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    from kblam.vllm.hook import StartUp, without_knowledge

    ours = {PREFIX + name for name in ARCHITECTURES}
    for name in ModelRegistry.get_supported_archs() - ours:
        MODELS_CONFIG_MAP[name] = without_knowledge(MODELS_CONFIG_MAP.get(name, VerifyAndUpdateConfig))
    for name in ours:
        ModelRegistry.register_model(name, f"kblam.vllm.models:{name}")
        MODELS_CONFIG_MAP[name] = StartUp
