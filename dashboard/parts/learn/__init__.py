"""The Learn page's steps and live elements: what they compute (no streamlit), and the cards that show it."""
