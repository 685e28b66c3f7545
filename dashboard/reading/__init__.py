"""What is known, for pages: runs as frames and in words, tables of the paper, findings, costs, readings of a model."""
