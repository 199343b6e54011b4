"""From documents to triples, each with the place that says it, through a language model behind an endpoint."""

from kblam.data.extracting.merging import Merged, merge
from kblam.data.extracting.run import Extraction, Prices, extract

__all__ = ["Extraction", "Merged", "Prices", "extract", "merge"]
