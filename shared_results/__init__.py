"""What becomes of the networks' output in every project: masks written, scored, gathered over folds, shown."""
