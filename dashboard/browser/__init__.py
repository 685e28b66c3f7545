"""What reaches a browser beside Streamlit's own page: the first look, scripts named early, and two mends."""
