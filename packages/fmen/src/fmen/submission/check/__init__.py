"""Checks a submission before the organisers do."""
