"""Long-tailed, multi-label chest X-ray classification, from radiographs to a valid submission."""

__version__ = "0.2.0"
