"""The formats that examples are read from: a reader for each, and how to tell them apart."""

from gpner.formats.detection import READERS, detect

__all__ = ["READERS", "detect"]
