"""What vLLM calls with a config before it starts a model with knowledge; light, since every engine imports it."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig


class StartUp(VerifyAndUpdateConfig):
    """Once for each engine, in the process that a user starts."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """`start.start_up`."""
        from kblam.vllm.start import start_up

        start_up(vllm_config)

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """`start.model_start_up`."""
        from kblam.vllm.start import model_start_up

        model_start_up(model_config)


def without_knowledge(own: type) -> type:
    """The hook of a class of vLLM's own: an engine of it would ignore, in silence, the knowledge that it was given.

    Args:
        own: vLLM's hook of the class.
    """
    if hasattr(own, "of_vllm"):
        return own

    class Plain(own):
        of_vllm = own

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            """Refuses knowledge for a class that has none."""
            from kblam.vllm.start import refuse_plain

            refuse_plain(vllm_config)
            own.verify_and_update_config(vllm_config)  # type: ignore[attr-defined]

    return Plain
