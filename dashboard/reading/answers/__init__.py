"""Each page's question, answered in one or two sentences that are computed from what the page shows. No streamlit.

answer      what an answer is, and figures in words
crossings   after how many edits a measure crosses a line
courses     how each run's model fared against lines that it must not cross
survival    Compare, Start and Learn: which method survives?
landing     Norm growth: where does the norm grow?
order       Norm growth: does growth order the damage?
dominance   Contributions and Learn: do the edited layers dominate the residual stream?
lost        Downstream: what did the model lose?
stopping    Overfitting: why stop early?
published   Paper: does it match what was published? And what the paper found, for the other pages
"""
