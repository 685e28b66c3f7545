"""An edit, from facts to edited matrices: targets → keys → update rule → edited matrices.

targets                the hidden states wanted
keys                   the inputs of the edited matrices at the subjects
covariance, stored_statistics   C0, which stands for what must stay, and where it is kept
update_rule            one closed form, in which a method is a choice of P and S
edited_matrices        W₀ + Δ₁ + Δ₂ + …: drafted for a batch, committed when all of it went well
session                one person's edits of one model
edit_file, edit_values a session's edits as a file
"""
