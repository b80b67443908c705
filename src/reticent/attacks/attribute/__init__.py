"""Attribute inference: what a view, or a model, tells about a private attribute."""
