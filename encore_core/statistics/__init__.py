"""Key statistics of a model, C0 = E[k kᵀ]: their text, and how they are gathered, kept, chosen and imported."""
