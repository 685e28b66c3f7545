"""Every figure that the pages draw, made from data frames; nothing here knows streamlit or torch.

text           what may stand in a chart
panels         panels with shared axes, for wide pages and for narrow ones
probes         the Edit page: answers before and after, next tokens, growth of the edited matrices
runs           norms and scores of runs over edits
norm_layers    norms of every layer at some checkpoints
contributions  what each sublayer adds to the residual stream
overfitting    the search for targets with and without early stopping
downstream     downstream tasks and perplexity of runs over edits
"""
