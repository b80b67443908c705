"""One thread per test process: the networks here are too small to share."""

import torch

torch.set_num_threads(1)
