"""FMEN in other programs."""
