"""The probe that shows whether statistics are enough: keys of facts, and of held-out text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from encore_core.editing.covariance import KeySums, in_batches, keys_of
from encore_core.editing.keys import KeyReader
from encore_core.errors import InputError
from encore_core.facts import read_facts
from encore_core.forward.prompts import encode_fact
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of
from encore_core.statistics.convergence import Look, disturbance

PROBE_FACTS, HELD_OUT_TOKENS, HELD_OUT_SHARE = 32, 2048, 10
"""How many facts' keys are used, how many tokens are held out, and that one window in 10 is held out for this."""


def places_held_out(windows: Sequence[list[int]]) -> list[int]:
    """Indices of the windows to hold out: one in ten, spread over the text, until there are enough tokens."""
    found, total = [], 0
    for place in range(0, len(windows), HELD_OUT_SHARE):
        if total >= HELD_OUT_TOKENS:
            break
        found.append(place)
        total += len(windows[place])
    return found


class Probe:
    """Measures the disturbance (see `convergence`) with keys of facts and of held-out text."""

    def __init__(self, lm: EditableModel, layers: Sequence[int], held_out: Sequence[list[int]]):
        self.lm = lm
        settings = settings_of(lm, "MEMIT")  # without a norm constraint, so that P depends on C0 alone
        self.lambda_p, self.lambda_n = settings.lambda_p, settings.lambda_n
        self.device = torch.device("cpu") if lm.device.type == "mps" else lm.device
        self.text = _keys_of_text(lm, layers, held_out)
        self.facts = _keys_of_facts(lm, sorted(layers))

    def look(self, sums: KeySums) -> Look:
        """Measure the disturbance with the sums so far."""
        found = {}
        for layer, total in sums.sums.items():
            C0 = (total / sums.n_tokens).to(self.device)
            K, text = (keys[layer].to(self.device) for keys in (self.facts, self.text))
            found[layer] = disturbance(C0, K, text, self.lambda_p, self.lambda_n)
        return Look(sums.n_tokens, found)


def _keys_of_text(lm: EditableModel, layers: Sequence[int], windows: Sequence[list[int]]) -> dict[int, torch.Tensor]:
    """Keys of every token of some windows, by layer, (d_mlp, n_tokens) float32."""
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for rows in in_batches(windows):
        for layer, K in keys_of(lm, layers, rows):
            found[layer].append(K.cpu())
    return {layer: torch.cat(parts).T for layer, parts in found.items()}


def _keys_of_facts(lm: EditableModel, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Keys of some bundled facts in their plain prompts, by layer, (d_mlp, n_facts) float32."""
    facts = []
    for fact in read_facts("bundled"):
        try:
            encode_fact(lm, fact)
        except InputError:  # longer than the model's context
            continue
        facts.append(fact)
        if len(facts) == PROBE_FACTS:
            break
    found = {}
    with lm.lock:
        reader = KeyReader(lm, facts, (), layers)
        for layer, above in zip(layers, [*layers[1:], None], strict=True):
            found[layer] = reader.keys(layer).float().cpu()
            if above is not None:
                reader.advance(layer, above)
    return found
