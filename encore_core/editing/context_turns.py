"""Which of a fact's contexts a step of its search looks at: all of them, or a few in turn (ours).

Far from the answer every context pulls δ in much the same direction, so a few of them show it at a fraction of the
work. With `contexts_at_once` = k > 0 evaluation t of a fact with n contexts looks at those numbered

    t k, …, t k + k − 1        (mod n)

until these say the new answer; from the next evaluation on it looks at all of them, to its end. Only then do the rules
apply that end a search. The last evaluation that a search may make looks at all of them in any case, so that what is
told of its end is told of all. With k = 0, or k ≥ n, all are looked at from the beginning.

A pass that runs whole batches of rows (`PlainPass`, and a step that is replayed on a GPU) computes all contexts and
leaves some of them out of the loss; the fast pass leaves out their rows.
"""

from __future__ import annotations

import torch


class ContextTurns:
    """Of a group of facts, the contexts that the next evaluation looks at. Only `keep` makes new tensors.

    Args:
        n_facts, n_contexts: every fact has the same number of contexts.
        at_once: k.
        device: of the group's pass.

    Attributes:
        in_full: (n_facts,) bool, the facts of which all contexts are looked at.
    """

    def __init__(self, n_facts: int, n_contexts: int, at_once: int, device: torch.device):
        self.at_once, self.n_contexts = at_once or n_contexts, n_contexts
        self.all_at_once = self.at_once >= n_contexts
        self.in_full = torch.full((n_facts,), self.all_at_once, device=device)
        self._due = torch.arange(self.at_once, device=device) % n_contexts

    def due(self) -> torch.Tensor | None:
        """(n_facts, n_contexts) bool, those that the next evaluation looks at; None for all of all facts."""
        if self.all_at_once:
            return None
        some = torch.zeros(self.n_contexts, dtype=torch.bool, device=self._due.device)
        return self.in_full[:, None] | some.index_fill(0, self._due, True)

    def read(self, said: torch.Tensor) -> None:
        """Take in an evaluation.

        Args:
            said: (n_facts,) bool, whether all contexts that were looked at said the new answer.
        """
        if not self.all_at_once:
            self.in_full.logical_or_(said)
            self._due.add_(self.at_once).remainder_(self.n_contexts)

    def look_at_all(self) -> None:
        """From the next evaluation on, look at all contexts of all facts."""
        self.in_full.fill_(True)

    def keep(self, facts: torch.Tensor) -> None:
        """Keep only some of the facts; `facts` holds their indices, ascending."""
        self.in_full = self.in_full[facts]
