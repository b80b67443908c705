"""Training with differential privacy: per-example clipping, noise, sampling, accounting."""
