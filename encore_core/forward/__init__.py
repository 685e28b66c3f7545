"""Passes through the model: text into tokens, hidden states and keys out of it, with or without a vector added.

tokens, prompts        a fact or a text as token ids
tracing                a pass over some blocks; reading and changing what flows between them
prefix_cache           the shared-prefix KV cache: the sampled prefixes of a batch are run once
packing, packed_attention, packed_pass    rows of unequal length as one sequence, without padding
bfloat16, cuda_graph   how a step of the search for targets is made faster
decoding               more tokens: generation for scores and probes
"""
