"""Hugging Face models with knowledge: attach, detach, and knowledge on the device."""

from kblam.models.attach import Attachment, attach, detach
from kblam.models.families import FAMILIES, Family
from kblam.models.hooks import attachment_of

__all__ = ["FAMILIES", "Attachment", "Family", "attach", "attachment_of", "detach"]
