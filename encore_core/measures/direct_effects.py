"""Which sublayer moved an answer's logit: direct effects of attention and MLP outputs, edited minus unedited.

Before the output matrix W stands a norm. At a given state h it is a linear map: RMSNorm scales by γ/r(h), LayerNorm
takes the mean away first. With r frozen at h, the logit z of a token is a sum over the sublayers' outputs o_s,

    z(h) = b + u·h = b + Σ_s u·o_s        h = Σ_s o_s, the output of the last block
                                          u the token's frozen reading direction, b what it gives for h = 0

(direct logit attribution; Elhage et al., "A mathematical framework for transformer circuits", 2021). From an unedited
model (0) to an edited one (1), with the norm frozen as it is in the unedited model,

    z₁ − z₀ = Σ_s u₀·(o_s,1 − o_s,0) + (u₁ − u₀)·h₁

where the last term is what the norm's other scale does. A soft cap on the logits comes on top of that, as its own term.

u is found without knowing the norm's class. A norm does not change when its input is made longer, so the gradient g of
z has no part along h; u = g + c h_c with u·h = z − b, where h_c is h, or h minus its mean where the norm takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from encore_core.autograd import gradients
from encore_core.errors import InputError, quoted
from encore_core.forward.prompts import encode
from encore_core.forward.tracing import run
from encore_core.measures.contributions import sublayer_names
from encore_core.measures.logit_lens import first_tokens
from encore_core.measures.streams import shown_tokens
from encore_core.measures.sublayers import check_sum, sublayer_outputs
from encore_core.models.editable import EditableModel
from encore_core.models.families import text_config

UNLIKE_A_NORM = 0.02
"""By how much of its length the reading of a state may change when the state is doubled; ε in the norm, no more."""


@dataclass(frozen=True, eq=False)
class Reading:
    """How a model reads some answers' logits off its last state at a prompt's last token.

    Attributes:
        outputs: (n_sublayers, d_model) float64, what each sublayer adds to the stream there, see `sublayer_names`.
        directions: (n_answers, d_model) float64, u of each answer's first token.
        offsets: (n_answers) b.
        linear: (n_answers) z, the logits before a soft cap.
        logits: (n_answers) as the model gives them.
        answer_tokens: (n_answers) those first tokens, as text.
    """

    outputs: np.ndarray
    directions: np.ndarray
    offsets: np.ndarray
    linear: np.ndarray
    logits: np.ndarray
    answer_tokens: tuple[str, ...]

    @property
    def effects(self) -> np.ndarray:
        """(n_answers, n_sublayers) u·o_s; with the offset they add up to `linear`."""
        return self.directions @ self.outputs.T


@dataclass(frozen=True, eq=False)
class Moved:
    """What moved answers' logits from one model to another.

    Attributes:
        labels, layers, kinds: (n_sublayers) of the sublayers, see `sublayer_names`.
        effects: (n_answers, n_sublayers) direct effect of each, in logits.
        norm: (n_answers) what the final norm's other scale adds.
        cap: (n_answers) what the soft cap takes away; 0 in models without one.
        unexplained: (n_answers) what is left of the change: rounding.
        change: (n_answers) of the model's own logit; the sum of all above.
        before, after: (n_answers) the model's own logits.
        answer_tokens: (n_answers) the tokens whose logits these are.
    """

    labels: tuple[str, ...]
    layers: tuple[int | None, ...]
    kinds: tuple[str, ...]
    effects: np.ndarray
    norm: np.ndarray
    cap: np.ndarray
    unexplained: np.ndarray
    change: np.ndarray
    before: np.ndarray
    after: np.ndarray
    answer_tokens: tuple[str, ...]


def moved(before: Reading, after: Reading) -> Moved:
    """The change of each logit as a sum over sublayers, the norm and the soft cap.

    Args:
        before, after: of the same prompt and answers on two models, for example unedited and edited.
    """
    names = sublayer_names((len(before.outputs) - 1) // 2)
    effects = before.directions @ (after.outputs - before.outputs).T
    norm = (after.directions - before.directions) @ after.outputs.sum(0) + after.offsets - before.offsets
    change = after.logits - before.logits
    cap = change - (after.linear - before.linear)
    return Moved(
        labels=tuple(name for name, _, _ in names),
        layers=tuple(layer for _, layer, _ in names),
        kinds=tuple(kind for _, _, kind in names),
        effects=effects,
        norm=norm,
        cap=cap,
        unexplained=change - effects.sum(1) - norm - cap,
        change=change,
        before=before.logits,
        after=after.logits,
        answer_tokens=before.answer_tokens,
    )


@gradients(False)
def read_directly(lm: EditableModel, prompt: str, answers: Sequence[str], *, join: str | None = None) -> Reading:
    """How the model, as it is, reads the answers' first tokens off its last state.

    Args:
        lm: the model, with whatever edits are in place.
        prompt: any text; its last token is the place that is looked at.
        answers: at least one.
        join: what goes between prompt and answer; None lets the texts decide (see `joining`).

    Raises:
        InputError: no answer, an answer without a token, a prompt longer than the context, a model whose blocks add
            something besides attention and MLP, or whose final norm is none.
    """
    if not answers:
        raise InputError("There is no answer whose logit could have moved; give at least one.")
    ids, firsts = encode(lm, prompt).ids, first_tokens(lm, prompt, answers, join)
    rows = torch.tensor([ids], device=lm.device)
    mask, last = torch.ones_like(rows), torch.zeros_like(rows, dtype=torch.bool)
    last[0, -1] = True
    with lm.lock:
        with sublayer_outputs(lm, last) as outputs:
            h = run(lm, rows, mask, stop=lm.n_layers)[0, -1]
        o = torch.cat(outputs).double()
        check_sum(lm, float((h.double() - o.sum(0)).norm() / h.double().norm()))
        z, slopes, logits = _last_step(lm, rows, h, firsts)
    # Rounding in the sum is put where it does not matter, so that directions fit the parts exactly.
    h = o.sum(0)
    z_h, z_double, b, z_shifted = z
    centred = h - h.mean() if _near(z_shifted, z_h, z_h - b) else h
    if not (_near(z_double, z_h, z_h - b) or _near(z_double - b, 2 * (z_h - b), z_h - b)):
        raise InputError(
            f"Model {quoted(lm.name)}: what stands between its last block and its logits is not a norm that is known, "
            "so direct effects cannot be read; they can for models of the GPT-2 or Llama kind."
        )
    c = (z_h - b - slopes @ h) / (centred @ h)
    directions = slopes + c[:, None] * centred
    return Reading(
        outputs=o.cpu().numpy(),
        directions=directions.cpu().numpy(),
        offsets=b.cpu().numpy(),
        linear=z_h.cpu().numpy(),
        logits=logits.cpu().numpy(),
        answer_tokens=shown_tokens(lm, firsts),
    )


def _near(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether two vectors of readings agree; also where they are not finite, as in a model that broke."""
    return not float((one - other).norm()) > UNLIKE_A_NORM * float(scale.norm())


def _last_step(
    lm: EditableModel, ids: torch.Tensor, h: torch.Tensor, tokens: Sequence[int]
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    """Run what follows the last block.

    Args:
        lm: the model, under its lock.
        ids: (1, length) token ids.
        h: (d_model) the state after the last block, at the last token.
        tokens: whose logits are read.

    Returns:
        the logits before a soft cap, (n_tokens) each, at h, at 2 h, at 0 and at h plus a constant; the gradient of the
        first, (n_tokens, d_model); and the model's own logits, (n_tokens). All float64.
    """
    wanted = list(tokens)
    head_outputs: list[torch.Tensor] = []
    hook = lm.model.get_output_embeddings().register_forward_hook(lambda _, args, out: head_outputs.append(out))
    place = ids[:, -1:]

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        return run(lm, place.expand(len(states), -1), torch.ones_like(place).expand(len(states), -1),
                   start=lm.n_layers, hidden=states[:, None])[:, 0]  # fmt: skip

    try:
        with gradients(True):
            state = h.detach().clone().requires_grad_()
            logits = logits_of(state[None])[0]
            written = head_outputs.pop().view(-1)
            slopes = [torch.autograd.grad(written[token], state, retain_graph=True)[0] for token in wanted]
        others = torch.stack([2 * h, torch.zeros_like(h), h + h.std()])
        logits_of(others)
        at_others = head_outputs.pop().view(3, -1)
    finally:
        hook.remove()
    written, logits = written.detach().to(h.device).double(), logits.detach().to(h.device).double()
    scale = _scale(lm, written, logits)
    z = [scale * values[wanted] for values in (written, *at_others.to(h.device).double())]
    return tuple(z), scale * torch.stack(slopes).to(h.device).double(), logits[wanted]


def _scale(lm: EditableModel, written: torch.Tensor, logits: torch.Tensor) -> float:
    """The factor between what the output matrix writes and the logits before a soft cap (Granite's and Cohere's).

    Args:
        lm: the model.
        written, logits: (n_vocab) float64.
    """
    cap = float(getattr(text_config(lm.model.config), "final_logit_softcapping", None) or 0.0)
    if cap:
        # Where the cap flattens the logit, rounding hides what was there.
        clear = logits.abs() < 0.9 * cap
        written, logits = written[clear], cap * torch.atanh(logits[clear] / cap)
    squared = float(written.square().sum())
    return float((written * logits).sum()) / squared if squared else 1.0
