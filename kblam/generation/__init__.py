"""Answers with evidence."""

from kblam.generation.ask import Answer, ask, ask_many
from kblam.generation.evidence import Evidence

__all__ = ["Answer", "Evidence", "ask", "ask_many"]
