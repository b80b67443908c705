"""Training: `fit(model, task) -> Trained`, one shape whatever protects it."""
