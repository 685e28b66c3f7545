"""The card "Look inside": what happens between the layers, unedited and edited.

looked     what is looked at, and what was read of it, kept until the model or its edits change
card       the card: which view, and which moment
lens       the logit lens
trace      the causal trace of the fact
tokens     every token of the answers
moved      which sublayer moved the logit of an answer
strength   the edit added in part, or more than whole
run_card, saved_edits   the same for a run: a fact of it, and the weights that it last saved
"""

from dashboard.parts.microscope.card import restore, show, view
from dashboard.parts.microscope.looked import Looked

__all__ = ["Looked", "restore", "show", "view"]
