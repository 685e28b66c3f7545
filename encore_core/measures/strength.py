"""How strong an edit is: W₀ + β Δ for β from 0 to 1.5, and when answers flip.

Δ = W − W₀ is what a session adds to its matrices. β = 0 is the model as loaded and β = 1 the edited one; between and
beyond them no edit is made, the same Δ is only added in part, or more than whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.answers import Answer, Question, answer_probabilities
from encore_core.models.editable import EditableModel

LARGEST = 1.5
BETAS = tuple(step / 8 for step in range(13))
"""0, 0.125, … 1.5."""

Role = Literal["rewrite", "paraphrase", "neighbour"]


@dataclass(frozen=True)
class Path:
    """How a model's answers to one prompt change with β.

    Attributes:
        role: of the prompt.
        prompt: its text.
        new, true: the answers: what the edit puts there, and what is or was true; None where none is known.
        new_answers, true_answers: (n_betas) ratings; no true ones without a true answer.
    """

    role: Role
    prompt: str
    new: str
    true: str | None
    new_answers: tuple[Answer, ...]
    true_answers: tuple[Answer, ...]

    def ahead(self, step: int) -> bool:
        """Whether the new answer beats the true one at a step; without a true one, whether the model says it."""
        if not self.true_answers:
            return self.new_answers[step].said
        return self.new_answers[step].log_probability > self.true_answers[step].log_probability


@dataclass(frozen=True)
class Strength:
    """Answers by β.

    Attributes:
        betas: (n_betas) ascending.
        paths: one per prompt: the rewrite first, then paraphrases, then neighbours.
    """

    betas: tuple[float, ...]
    paths: tuple[Path, ...]

    def flips(self, path: Path) -> float | None:
        """The first β at which the new answer is ahead at a prompt where it was not at the smallest β.

        None if it never is, or already was. At a larger β it may fall behind again.
        """
        if path.ahead(0):
            return None
        return next((beta for step, beta in enumerate(self.betas) if path.ahead(step)), None)

    def says(self, path: Path) -> float | None:
        """The first β at which every token of the new answer is the most probable one; None if there is none."""
        return next((beta for beta, answer in zip(self.betas, path.new_answers, strict=True) if answer.said), None)

    @property
    def rewrite(self) -> Path:
        """The path of the fact's own prompt."""
        return self.paths[0]

    def of(self, role: Role) -> tuple[Path, ...]:
        """The paths of the prompts of one role."""
        return tuple(path for path in self.paths if path.role == role)

    def first_to_follow(self) -> tuple[float, Path] | None:
        """The smallest β at which a neighbour takes the new answer over, with that neighbour; None if none does."""
        found = [(beta, path) for path in self.of("neighbour") if (beta := self.flips(path)) is not None]
        return min(found, key=lambda one: one[0], default=None)


def scaled_matrices(lm: EditableModel, matrices: Mapping[int, torch.Tensor], beta: float) -> dict[int, torch.Tensor]:
    """W₀ + β (W − W₀), by layer; at β = 0 and 1 the very matrices, without rounding.

    Args:
        lm: the model; the caller has put the base weights into it.
        matrices: W by layer, stored like `EditableModel.parameter`.
        beta: from 0 to `LARGEST`.

    Raises:
        InputError: for another β.
    """
    if not (math.isfinite(beta) and 0 <= beta <= LARGEST):
        raise InputError(f"The strength β must be from 0 to {LARGEST}, not {beta}.")
    if beta == 0:
        return {}
    if beta == 1:
        return dict(matrices)
    # lerp takes its weight in the matrix's own dtype, which is too coarse in 16 bits.
    return {
        layer: (W_0 + beta * (W.to(W_0) - W_0)).to(W.dtype)
        for layer, W in matrices.items()
        for W_0 in [lm.parameter(layer).data.to(W.device, torch.promote_types(W.dtype, torch.float32))]
    }


@torch.no_grad()
def strengths(
    lm: EditableModel,
    matrices: Mapping[int, torch.Tensor],
    fact: Fact,
    betas: Sequence[float] = BETAS,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Strength:
    """Rate a fact's answers at several strengths of an edit.

    Args:
        lm: the model.
        matrices: the edited ones, `EditSession.matrices()`; of the fact's edit alone or of many edits together.
        fact: its prompt, paraphrases and neighbours are asked.
        betas: strengths, each from 0 to `LARGEST`; sorted, and repetitions left out.
        on_progress: called with the share that is done; what it raises ends the work.

    Raises:
        InputError: no β or one out of range, no edited matrix, or a prompt that does not fit into the context.
    """
    if not betas:
        raise InputError("There is no strength β to try; give at least one.")
    if not matrices:
        raise InputError("Nothing is edited, so there is no Δ whose strength could change; make an edit first.")
    betas = tuple(sorted(dict.fromkeys(float(beta) for beta in betas)))
    asked = list(_asked(fact))
    questions = list(dict.fromkeys(one for _, new, true in asked for one in (new, true) if one is not None))
    found: list[dict[Question, Answer]] = []
    with lm.matrices_replaced({}):
        for beta in betas:  # before anything is run
            scaled_matrices(lm, {}, beta)
        for number, beta in enumerate(betas, start=1):
            with lm.matrices_replaced(scaled_matrices(lm, matrices, beta)):
                found.append(dict(zip(questions, answer_probabilities(lm, questions), strict=True)))
            if on_progress is not None:
                on_progress(number / len(betas))
    paths = (
        Path(
            role=role,
            prompt=new.prompt,
            new=new.answer,
            true=true and true.answer,
            new_answers=tuple(answers[new] for answers in found),
            true_answers=tuple(answers[true] for answers in found) if true is not None else (),
        )
        for role, new, true in asked
    )
    return Strength(betas, tuple(paths))


def _asked(fact: Fact) -> Iterator[tuple[Role, Question, Question | None]]:
    """Role, new answer and true answer of every prompt of a fact."""
    for role, prompt in (("rewrite", fact.text), *(("paraphrase", prompt) for prompt in fact.paraphrases)):
        true = Question(prompt, fact.target_true, fact.join) if fact.target_true else None
        yield role, Question(prompt, fact.target_new, fact.join), true
    for neighbour in fact.neighbours:
        new, true = (Question(neighbour.prompt, answer, fact.join) for answer in (fact.target_new, neighbour.target))
        yield "neighbour", new, true
