"""From a recipe to a bundle: the typed recipe, the planner that writes one, and the run."""
