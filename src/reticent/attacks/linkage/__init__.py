"""Linkage attacks: a person found again in a release by what the adversary already knows."""
