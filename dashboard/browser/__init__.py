"""What reaches a browser besides Streamlit's own page: the first paint, and three fixes to what Streamlit does.

first_paint            what is shown while scripts are being read
click_deduplication    one click, one action
navigation_roles       the list of pages for screen readers
field_shortcuts        Ctrl+Enter in a field is for the field alone
"""
