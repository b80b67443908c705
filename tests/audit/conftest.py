"""The synthetic views of tests/attacks serve here too."""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
