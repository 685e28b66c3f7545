"""Key statistics of a model, C0 = E[k kᵀ], and F = E[g gᵀ] beside it: gathered from text, imported and exported.

request, texts         what is asked for, and the text
cost                   time, memory and disk, estimated before
gathering, convergence, sufficiency    one pass over the text; when there is enough of it
worker, jobs           gathering in a process of its own, as the pages start it
npz, npz_arrays        MEMIT's file format
"""
