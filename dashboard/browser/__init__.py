"""What reaches a browser beside Streamlit's own page: the first paint, and two mends of what Streamlit does.

first_paint            what is to be seen while scripts are being read
click_deduplication    one click, one deed
navigation_roles       the list of pages for those who hear it
"""
