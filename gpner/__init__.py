"""Nested named entities from whole long documents: the model, its training and its inference."""

from gpner.entities import Entity, Extraction
from gpner.errors import GpnerError

__all__ = ["Entity", "Extraction", "GpnerError"]
