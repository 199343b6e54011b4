"""Hugging Face models with knowledge: attach, detach, and knowledge on the device."""

from kblam.models.attach import Attachment, attach, attachment_of, detach
from kblam.models.families import FAMILIES, Family

__all__ = ["FAMILIES", "Attachment", "Family", "attach", "attachment_of", "detach"]
