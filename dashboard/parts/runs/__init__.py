"""Parts of the Runs page.

choice          which run is opened: search, table, box
run_record      the record of one run
actions         what can be done with it
settings_table  its settings
downloads       its files
edited_model    the model with its edits in it
refreshing      drawing the page anew while runs go on
"""
