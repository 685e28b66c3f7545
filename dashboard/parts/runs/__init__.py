"""Parts of the Runs page.

choice          which run is opened: search, list, box
run_list        the list of runs with their results
results         what came of one run: an outcome in words, and its curves
run_record      the record of one run
actions         what can be done with it
settings_table  its settings
downloads       its files
edited_model    the model with its edits in it
refreshing      redrawing the page while runs go on
"""
