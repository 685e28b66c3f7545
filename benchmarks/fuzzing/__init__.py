"""What `fuzz.py` is made of: the targets, what mutates their inputs, and what watches over a try."""
