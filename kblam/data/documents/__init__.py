"""Documents as text with pages, and cut into pieces by their structure."""

from kblam.data.documents.converting import Converter
from kblam.data.documents.reading import KINDS, Document, read_document
from kblam.data.documents.splitting import Piece, pieces_of

__all__ = ["KINDS", "Converter", "Document", "Piece", "pieces_of", "read_document"]
