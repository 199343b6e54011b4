"""A model folder: base reference, adapter and knowledge base side by side, so that one path is enough to ask."""

from kblam.folder.manifest import KNOWLEDGE, MANIFEST, Manifest, is_model_folder, read_manifest
from kblam.folder.new import check_new_folder, new_folder
from kblam.folder.parts import LoadedModel, load_model
from kblam.folder.reading import FolderParts, load_folder, parts_of
from kblam.folder.writing import integrate

__all__ = [
    "KNOWLEDGE",
    "MANIFEST",
    "FolderParts",
    "LoadedModel",
    "Manifest",
    "check_new_folder",
    "integrate",
    "is_model_folder",
    "load_folder",
    "load_model",
    "new_folder",
    "parts_of",
    "read_manifest",
]
