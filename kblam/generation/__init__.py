"""Answers with evidence."""

from kblam.generation.answer import Answer
from kblam.generation.ask import ask, ask_many
from kblam.generation.evidence import Evidence
from kblam.generation.session import Session

__all__ = ["Answer", "Evidence", "Session", "ask", "ask_many"]
