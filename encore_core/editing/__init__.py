"""An edit, from facts to edited matrices: targets → keys → update rule → edited matrices.

targets                the wanted hidden states: the search for them, and when it stops
search_step            how the search moves: by Adam, along the gradient, along the natural gradient
context_turns          which of a fact's contexts a step of the search looks at
target_loss, pass_choice    the loss that the search minimises; which pass computes it for a model
target_rows, plain_target_pass, fast_target_pass    facts as rows of tokens, and their logits with δ added
group_size             how many tokens are run at once where gradients are wanted
keys                   the inputs of the edited matrices at the subjects
covariance, stored_statistics   C0, which represents what must stay, and where it is kept
gradient_moments       F, what general text loses when a block's output changes
foretold_damage, layer_costs   what an update costs general text, from C0 and F; what a fact would, block by block
update_rule            one closed form, in which a method is a choice of P and S
renewed_projector      P on unused directions, which are found anew (BetaEdit)
what_is_kept           what a layer keeps between batches, by method
answer_gradients, gradient_rule   edits along the gradient of the answer (UltraEdit, StableEdit): one batch; the rule
projected_gradient, fine_tuning   gradients kept out of what general text needs (CrispEdit): the rule; one batch
push                   facts that are not said after the update ask once more for what they did not get
lyapunov               least squares whose weight on general text grows with what is lost (LyapLock)
norm_anchor            targets brought to one norm (NAS)
main_directions        updates weakened along the main directions of a matrix's rows (SPHERE)
removal                facts taken out of W and P again, in closed form
edited_matrices        W₀ + Δ₁ + Δ₂ + …: drafted for a batch, committed once all of it has succeeded
batch                  one batch, solved on a draft: targets, keys, updates
batch_measures, batch_report   what is measured before and after a batch; what it reports
edit_list, retraction  the edits of a history one by one; some of them taken back, and what that leaves behind
edited_model           a model with one person's edits on it, and what they start from
helpers, team, team_member   several processes that share the work of every batch: how it is cut, who does it
session                one person's edits of one model: prepare, edit, take back, undo, save
session_contents, session_state    what a session holds, replaced as a whole; its state, for continuing elsewhere
shared_by_sessions     what sessions on one model share: sampled prefixes, initial P
shared_search          one search for the targets of several methods, while the model is unedited
comparison             the same facts with several methods
edit_file, edit_file_batches, edit_file_values   a session's edits as a file
"""
