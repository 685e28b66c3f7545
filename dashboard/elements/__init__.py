"""What pages are made of: pieces of markup, charts on the page, pickers, the theme."""
