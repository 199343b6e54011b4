"""`kblam kb doctor`: what will go wrong with a knowledge base, before anything is trained on it or served.

from kblam.evaluation.health import examine

report = examine(kb)
print(report.expected, [finding.what for finding in report.worst])
"""

from __future__ import annotations

from kblam.evaluation.health.examination import Health, examine
from kblam.evaluation.health.findings import Finding

__all__ = ["Finding", "Health", "examine"]
