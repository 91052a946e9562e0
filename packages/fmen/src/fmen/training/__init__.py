"""Training: the loop, recipes, run folders and checkpoints."""
