"""The Edit page: its forms (facts, method), what is done with them (actions, history), and its results."""
