"""The parts of pages, a folder a page: forms, cards, and what a button does."""
