"""Question-answer sets about a base or documents: from templates, or written by a language model."""

from kblam.data.asking.from_base import KINDS, about_base
from kblam.data.asking.from_documents import about_documents
from kblam.data.asking.rephrasing import rephrased
from kblam.data.asking.sets import UNANSWERABLE, Asked, parse_shares

__all__ = ["KINDS", "UNANSWERABLE", "Asked", "about_base", "about_documents", "parse_shares", "rephrased"]
