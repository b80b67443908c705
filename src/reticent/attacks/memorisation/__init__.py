"""Memorisation: what a trained model repeats of single training records."""
