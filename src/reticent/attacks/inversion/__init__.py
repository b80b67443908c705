"""Model inversion: what a class, or a person's hidden attribute, looks like to the model."""
