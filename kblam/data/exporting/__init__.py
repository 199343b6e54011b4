"""What a knowledge base, or a set of questions, is for others: RDF, graphs, Markdown; training and evaluation sets.

from kblam.data.exporting import export_base, export_questions, read_questions

export_base("facts.ttl", kb.triples())
export_questions("train.json", read_questions("questions.jsonl"), form="alpaca")
"""

from __future__ import annotations

from kblam.data.exporting.bases import BASE_SUFFIXES, check_export, export_base
from kblam.data.exporting.questions import FORMS, QuestionAnswer, example_questions, of_question
from kblam.data.exporting.sets import export_questions, export_splits, file_of_split, read_questions

__all__ = [
    "BASE_SUFFIXES",
    "FORMS",
    "QuestionAnswer",
    "check_export",
    "example_questions",
    "export_base",
    "export_questions",
    "export_splits",
    "file_of_split",
    "of_question",
    "read_questions",
]
