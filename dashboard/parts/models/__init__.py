"""Parts of the Models page.

choice           which model, and the check of it
check_cards      what the check has found
tuning           the evidence of hyper-parameters that were searched for
statistics_card  the key statistics that there are
gather_card      gathering others
jobs_card        the jobs that gather
"""
