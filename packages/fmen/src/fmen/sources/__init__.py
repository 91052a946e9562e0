"""Resolve what a user names (--data, --weights, --model). Independent of recipes."""
