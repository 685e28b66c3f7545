"""What reaches a browser besides Streamlit's own page: the first paint, and two fixes to what Streamlit does.

first_paint            what is shown while scripts are being read
click_deduplication    one click, one action
navigation_roles       the list of pages for screen readers
"""
