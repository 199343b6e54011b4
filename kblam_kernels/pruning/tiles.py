"""The tile of pruning's scores: compiled for sm_80 and sm_90 without spills (`jobs.py`), not timed on a GPU."""

from __future__ import annotations

# Batch rows and tokens of a program. A matrix instruction takes at least 16 rows; few tokens leave many programs.
BLOCK_ROWS, BLOCK_M = 16, 32
# Columns of a key taken in at a time: float32 products of three passes need their registers.
WIDEST_CHUNK = 64
NUM_WARPS, NUM_STAGES = 4, 3
