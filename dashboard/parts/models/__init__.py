"""Parts of the Models page.

choice           which model, and the check of it
check_cards      what the check has found
tuning           the evidence for hyper-parameters that were found by a search
tuning_lives     the same for thousands of edits
blocks_card      which blocks to edit, by what a fact would cost at each
statistics_card  the key statistics that there are
gather_card      gathering others
jobs_card        the jobs that gather
"""
