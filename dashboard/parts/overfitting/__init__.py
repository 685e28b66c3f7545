"""The Overfitting page's cards: one fact's search, many facts, and a search of the visitor's own."""
