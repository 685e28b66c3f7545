"""Key statistics of a model, C0 = E[k kᵀ]: their text, how they are gathered, kept, chosen and imported."""
