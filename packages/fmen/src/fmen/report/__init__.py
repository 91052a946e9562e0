"""The HTML report of a run: curves, tables, images."""
