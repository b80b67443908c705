"""Shadow models: many models trained like the target, at the price of a few."""
