"""Extraction: what a client can copy of the model."""
