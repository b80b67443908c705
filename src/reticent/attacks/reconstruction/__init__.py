"""Reconstruction: inputs and training records rebuilt from features, gradients, weights."""
