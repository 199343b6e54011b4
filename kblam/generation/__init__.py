"""Answers with evidence."""

from kblam.generation.answer import Answer, Copied
from kblam.generation.ask import ask, ask_many
from kblam.generation.evidence import Evidence
from kblam.generation.pointer import Pointer
from kblam.generation.session import Session

__all__ = ["Answer", "Copied", "Evidence", "Pointer", "Session", "ask", "ask_many"]
