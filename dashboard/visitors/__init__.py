"""The visitors of a server: the models they share, what each has edited, and what each may do.

model_loading    a model being loaded, for everybody who waits for it
models           the models of this server, each loaded once
visitor          one visitor: edits, the work at hand, what is shown
comparison       several methods side by side, which take the same facts
applying_edits   applying a visitor's batches
messages         what a visitor is told about an action
kept_visitors    visitors that wait for their browser to come back after a reload
browser_session  the visitor of this browser session
widget_state     what widgets keep in the session state
access           what this session may do
"""
