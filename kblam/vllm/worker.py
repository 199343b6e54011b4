"""What an engine may be told while it runs, through `LLM.collective_rpc`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kblam.vllm.pool import serving_pool


class KnowledgeWorker:
    """Methods of every worker. Each returns what it has then, by name: revision, generation, triples, path, encoder,
    rows and bytes.

    `llm.collective_rpc("kblam_load", args=("facts", "facts.kb"))` returns the answer of each worker.
    """

    vllm_config: Any

    def kblam_bases(self) -> dict[str, Any]:
        """The knowledge bases that requests may choose."""
        pool = serving_pool(self.vllm_config)
        return {
            name: {**asdict(one), "rows": pool.rows_of(name), "bytes": pool.bytes_of(name)}
            for name, one in pool.bases().items()
        }

    def kblam_load(self, name: str, path: str) -> dict[str, Any]:
        """`KnowledgePool.load`."""
        serving_pool(self.vllm_config).load(name, path)
        return self.kblam_bases()

    def kblam_update(self, name: str) -> dict[str, Any]:
        """`KnowledgePool.update`."""
        serving_pool(self.vllm_config).update(name)
        return self.kblam_bases()

    def kblam_unload(self, name: str) -> dict[str, Any]:
        """`KnowledgePool.unload`."""
        serving_pool(self.vllm_config).unload(name)
        return self.kblam_bases()
