"""Property inference: a statistic of the training set, told by shadow models of each hypothesis."""
