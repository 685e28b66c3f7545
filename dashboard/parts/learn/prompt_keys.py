"""A prompt as the model's tokenizer cuts it, and the keys at its subject's last token. Knows no streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from encore_core.editing.session import EditSession
from encore_core.facts import Fact
from encore_core.forward.prompts import Encoded, encode, pad
from encore_core.forward.tracing import captured_input, run
from encore_core.models.editable import EditableModel

FOILS = ("Japan", "Norway")
"""Subjects to compare a key with; the first one that is not the reader's own."""


@dataclass(frozen=True)
class Token:
    """A token of the prompt.

    Attributes:
        text: what it stands for.
        id: in the vocabulary.
        role: "" for ordinary ones, "subject", or "last" for the subject's last one.
    """

    text: str
    id: int
    role: str


@dataclass(frozen=True)
class LayerKey:
    """The key of a subject at one edited layer.

    Attributes:
        layer: its index.
        key_norm, value_norm: ‖k‖ and ‖W k‖ in the plain prompt.
        half: how many entries of k, the largest ones, make up half of ‖k‖².
        same: cosine between k in the plain prompt and behind the sampled prefixes, the lowest one; None without them.
        other: cosine between k and the key of another subject in the same prompt.
    """

    layer: int
    key_norm: float
    value_norm: float
    half: int
    same: float | None
    other: float


@dataclass(frozen=True)
class PromptKeys:
    """What step 1 shows of a prompt.

    Attributes:
        tokens: of the prompt.
        layers: of the edited layers, ascending.
        d_model, d_mlp: lengths of v and k.
        foil: the other subject.
    """

    tokens: tuple[Token, ...]
    layers: tuple[LayerKey, ...]
    d_model: int
    d_mlp: int
    foil: str


def tokens_of(lm: EditableModel, fact: Fact) -> tuple[Token, ...]:
    """The tokens of a fact's prompt, with those of the subject marked."""
    start, end = fact.subject_span
    whole = encode(lm, fact.text, subject_end=end)
    first = encode(lm, fact.text, subject_end=start + 1).lookup
    roles = dict.fromkeys(range(first, whole.lookup), "subject") | {whole.lookup: "last"}
    return tuple(
        Token(lm.tokenizer.decode([token]), int(token), roles.get(place, "")) for place, token in enumerate(whole.ids)
    )


def keys_of(session: EditSession, fact: Fact) -> PromptKeys:
    """Tokens and keys of a fact's prompt on the model with a session's edits.

    Raises:
        InputError: when the prompt does not fit into the model's context.
    """
    lm, layers, prefixes = session.lm, session.settings.layers, session.prefixes
    foil = next(name for name in FOILS if name.casefold() != fact.subject.casefold())
    other = Fact(foil, fact.prompt, fact.target_new)
    encoded = [
        *(_at_subject(lm, fact, prefix) for prefix in ("", *prefixes)),
        _at_subject(lm, other, ""),
    ]
    with session.edited(), torch.no_grad():
        found = []
        for layer, k in _keys(lm, encoded, layers).items():
            plain = k[0]
            value = lm.matrix(layer).to(plain) @ plain
            cosines = torch.nn.functional.cosine_similarity(plain[None], k[1:], dim=1).tolist()
            energy = plain.square().sort(descending=True).values.cumsum(0)
            found.append(
                LayerKey(
                    layer,
                    float(plain.norm()),
                    float(value.norm()),
                    int((energy < energy[-1] / 2).sum()) + 1,
                    min(cosines[:-1], default=None),
                    cosines[-1],
                )
            )
        return PromptKeys(tokens_of(lm, fact), tuple(found), lm.d_model, lm.d_mlp, foil)


def _at_subject(lm: EditableModel, fact: Fact, prefix: str) -> Encoded:
    lead = f"{prefix}. " if prefix else ""
    return encode(lm, lead + fact.text, subject_end=len(lead) + fact.subject_span[1])


def _keys(lm: EditableModel, encoded: Sequence[Encoded], layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Per layer what enters the MLP's output matrix at the subject's last token, (n, d_mlp) float32."""
    batch = pad(lm, [item.ids[: item.lookup + 1] for item in encoded])
    rows, columns = torch.arange(len(encoded)), torch.tensor([item.lookup for item in encoded])
    with ExitStack() as stack:
        seen = {layer: stack.enter_context(captured_input(lm.down_projections[layer])) for layer in layers}
        run(lm, batch.ids, batch.mask, stop=layers[-1] + 1)
    return {layer: inputs[0].view(*batch.ids.shape, -1)[rows, columns].float() for layer, inputs in seen.items()}
