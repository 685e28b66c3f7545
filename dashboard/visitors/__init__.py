"""The visitors of a server: the models they share, what each has edited, and what each may do."""
