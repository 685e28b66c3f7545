"""The plan of new runs on the Run page: its fields, card by card, and what leads from them to runs."""
