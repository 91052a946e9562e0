"""Training: the loop, recipes, run folders, checkpoints."""
