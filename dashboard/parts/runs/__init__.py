"""Parts of the Runs page.

choice          which run is opened: search, table, box
record          the record of one run
actions         what can be done with it
settings_table  its settings
downloads       its files
edited_model    the model with its edits in it
following       redrawing the page while runs go on
"""
