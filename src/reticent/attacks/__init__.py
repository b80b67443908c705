"""Attacks: they get a view and public knowledge, and return scores that know no truth."""

from reticent.attacks.attribute import FAMILIES, QUICK, AttributeScores, attack_attribute
from reticent.attacks.decoding import decode_few_shot
from reticent.attacks.finding import Finding
from reticent.attacks.reconstruction import ReconstructionScores, attack_reconstruction
from reticent.attacks.view import Observed, ServerView

__all__ = [
    "FAMILIES",
    "QUICK",
    "AttributeScores",
    "Finding",
    "Observed",
    "ReconstructionScores",
    "ServerView",
    "attack_attribute",
    "attack_reconstruction",
    "decode_few_shot",
]
