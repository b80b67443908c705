"""Generated sets with known ground truth; every one says SYNTHETIC."""
