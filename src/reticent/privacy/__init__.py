"""Where privacy budgets are granted and spent."""
