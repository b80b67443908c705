"""Attacks on a released table: singling out, linkability, inference and membership."""
