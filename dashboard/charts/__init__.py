"""Every figure that the pages draw, made from data frames; nothing here knows streamlit or torch.

chart          traces and layouts, for wide pages, for narrow ones and for phones
labels         text that is safe in a chart
palette        the colours
enlarged       the same for a projector
panels         panels with shared axes
answers        the Edit page: answers before and after, next tokens, growth of the edited matrices
compared       the Edit page: one method's answers in a column beside those of others
runs           norms and scores of runs over edits
small_multiples    runs side by side: a row per measure, a column per run in its method's colour
norm_layers    norms of every layer at some checkpoints
foretold       foretold damage: of runs over edits, and of a fact at each block
contributions  what each sublayer adds to the residual stream
overfitting    the search for targets with and without early stopping
downstream     downstream tasks and perplexity of runs over edits
paper          figures of the paper's tables beside what was measured
learn          the search for a target and the sandbox of the page Learn
tuning         what the search for hyper-parameters tried, and the causal trace
microscope_maps    maps of layers and tokens: the logit lens, the causal trace of a fact
microscope_bars    what moved a logit, an answer token by token, answers by strength of an edit
"""
