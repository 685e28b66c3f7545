"""The search for a method's hyper-parameters on a model (`encore tune`).

ground      what a search starts from, and what all searches share
facts       which facts a search is made with, and which it must not see
search      for a few edits
long_life   for thousands of edits
lives       its trials, and what was left of the model in them
"""
