"""What to ask of a system, and which checkers read the answers."""
