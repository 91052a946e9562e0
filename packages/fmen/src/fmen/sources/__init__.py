"""What a user names (--data, --weights, --model) and the object that it stands for. Knows no recipe."""
