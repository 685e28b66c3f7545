"""Passes through the model: from text to tokens, hidden states and keys, with or without an added vector.

tokens, prompts        a fact or a text as token ids
tracing                a pass over some blocks; reading and changing the hidden states between them
block_again            a block after its MLP matrix has changed, without what has not
prefix_cache           the shared-prefix KV cache: the sampled prefixes of a batch are run once
packing, packed_attention, packed_pass    rows of unequal length as one sequence, without padding
bfloat16, cuda_graph   how a step of the search for targets is made faster
decoding               generation of more tokens, for scores and probes
"""
