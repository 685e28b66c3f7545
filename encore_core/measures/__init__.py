"""What is measured on a model, edited or not; nothing here changes it.

answers                how probable answers are, and the next tokens
scores                 edit, paraphrase, neighbourhood and portability scores
before_edits           which facts fit a model, and which answers it gives already
intervals              how sure they are
generated              answers that a model writes itself, to their natural end
judging                whether a text gives an answer; judges of the user's
generated_scores       the same scores from generated answers
writing                the text that a model writes after a prompt, token by token
perplexity_entropy     perplexity, generation entropy
tasks, task_sets       six tasks that have nothing to do with the edits, and where their data come from
downstream             how a model answers them
norms                  Frobenius norms of the matrices
contributions, sublayers   which sublayers write the residual stream: the arithmetic, and the passes it needs
streams                the residual stream between the blocks
logit_lens             what the model would say after each layer
answer_tokens          every token of an answer
direct_effects         which sublayer moved the logit of an answer
strength               answers with an edit added in part, or more than whole
causal_trace, fact_trace   at which block facts are recalled; where one fact is, by layer and token
"""
