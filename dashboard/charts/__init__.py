"""Every figure that the pages draw, made from data frames; nothing here knows streamlit or torch.

text      what may stand in a chart
panels    panels with shared axes, for wide pages and for narrow ones
probes    the Edit page: answers before and after, next tokens, growth of the edited matrices
runs      norms and scores of runs over edits
"""
