"""Attacks: they get a view and public knowledge, and return scores that know no truth."""
