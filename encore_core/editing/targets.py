"""Targets: the hidden state z at the last edited layer with which the model would say the new fact.

For a fact and its contexts (the plain prompt and the sampled prefixes) a vector δ, added at the subject's last token to
the block output of the last edited layer, is moved down the loss of `target_loss` (see `search_step`), with

    ‖δ‖ ≤ clamp · ‖h‖ after every step,        z = h + δ

and h the state in the plain prompt (MEMIT, arXiv 2210.07229). Most-Probable Early Stopping (MPES, arXiv 2502.01636)
stops a fact once every target token is the most probable one at its position in every context that counts.

Facts are optimised together and each stops on its own. `FastPass` computes only what δ can change, `PlainPass` runs
everything and is used for families on which the fast one gives another loss (see `pass_choice`).

As in the published code, no step follows the last evaluation of the loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from encore_core.autograd import gradients
from encore_core.editing.context_turns import ContextTurns
from encore_core.editing.fast_target_pass import FastPass
from encore_core.editing.group_size import default_max_tokens
from encore_core.editing.pass_choice import starts_of_fast_pass
from encore_core.editing.plain_target_pass import PlainPass
from encore_core.editing.search_step import step_of
from encore_core.editing.target_loss import Evaluation, TargetSettings, evaluate
from encore_core.editing.target_rows import Example
from encore_core.facts import Fact
from encore_core.forward.bfloat16 import matrices_in_bfloat16
from encore_core.forward.cuda_graph import Replayed
from encore_core.forward.prompts import batches_by_length
from encore_core.models.editable import EditableModel

LOSS_THRESHOLD = 0.05

FLOP_PER_WEIGHT = 4
"""Per token and step: a product and a sum in the forward pass, and the same for the gradient of the input."""

MOST_REPLAYED_FLOP = 4e12
"""Steps with at most this much work are recorded on a GPU (see `cuda_graph`). Python takes some 5 ms to launch a
block's kernels; a large GPU does 0.2e12 in that time, in float32."""


@dataclass(frozen=True)
class Target:
    """What the optimisation found for a fact. The series have one entry per evaluation of the loss.

    Attributes:
        z: (d_model,) float32, the wanted state.
        h: (d_model,) float32, the state in the plain prompt before.
        steps: gradient steps taken.
        stopped: "loss" (below the threshold), "mpes" (most probable) or "steps" (the last evaluation was reached).
        loss, nll, kl, decay: the loss and its three terms.
        probability: mean over contexts of the geometric-mean probability of a target token.

    With `contexts_at_once` means are over the contexts that the evaluation looked at; at the last one these are all.
    """

    z: torch.Tensor
    h: torch.Tensor
    steps: int
    stopped: str
    loss: tuple[float, ...]
    nll: tuple[float, ...]
    kl: tuple[float, ...]
    decay: tuple[float, ...]
    probability: tuple[float, ...]


OnStep = Callable[[int, int, float], None]
"""`on_step(n_finished, step, mean_loss)`, called after every test whether facts are finished."""


def optimise_targets(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    layer: int,
    settings: TargetSettings,
    *,
    F: torch.Tensor | None = None,
    fast: bool = True,
    max_tokens: int | None = None,
    on_step: OnStep | None = None,
) -> list[Target]:
    """Find the target state of every fact.

    Args:
        lm: the model with the edits made so far; the caller holds its lock.
        facts: the batch.
        prefixes: sampled prefixes; the plain prompt is used in addition to them.
        layer: index of the last edited block.
        settings: hyper-parameters.
        F: (d_model, d_model) second moment of gradients at the block, see `search_step`; for the natural gradient.
        fast: use the fast pass where it agrees with the plain one.
        max_tokens: tokens run at once; bounds memory. By default what suits the device.
        on_step: called after evaluations, see `OnStep`.

    Returns:
        one target per fact, in order.
    """
    return RuleSearch(lm, facts, prefixes, layer, (settings,), F=F, fast=fast, max_tokens=max_tokens).found(0, on_step)


def path_of(rule: TargetSettings) -> TargetSettings:
    """What decides where a search goes, and not when it stops; the number of steps only where it decides both."""
    return replace(rule, mpes=False, mpes_extra_steps=0, steps=rule.steps if rule.contexts_at_once else 0)


class RuleSearch:
    """One search, stopped by several rules: methods that stop differently walk the same path until the first stops.

        search = RuleSearch(lm, facts, prefixes, layer, [early, late])
        search.found(0)        # walks until the first rule has stopped every fact
        search.found(1)        # goes on from there

    The model must hold the same edits whenever `found` is called. A search that raised an exception is over.

    Args:
        rules: hyper-parameters with the same `path_of`.
        lm, facts, prefixes, layer, F, fast, max_tokens: as for `optimise_targets`.

    Raises:
        ValueError: when the rules differ in more.
    """

    def __init__(
        self,
        lm: EditableModel,
        facts: Sequence[Fact],
        prefixes: Sequence[str],
        layer: int,
        rules: Sequence[TargetSettings],
        *,
        F: torch.Tensor | None = None,
        fast: bool = True,
        max_tokens: int | None = None,
    ):
        if len(set(map(path_of, rules))) != 1:
            raise ValueError(f"One search serves settings that differ in when it stops alone; got {rules}.")
        self.lm, self.layer, self.rules, self._F = lm, layer, rules, F
        self._examples = Example.of_facts(lm, facts, prefixes)
        self._make_pass = functools.partial(PlainPass, lm, layer)
        if fast and (starts := starts_of_fast_pass(lm, layer, self._examples, rules[0])) is not None:
            packed = lm.checked_paths[layer] == "packed"
            self._make_pass = functools.partial(FastPass, lm, layer, starts=starts, packed=packed)
        budget = max_tokens or default_max_tokens(lm, layer)
        self._groups = list(batches_by_length([example.cost for example in self._examples], budget))
        # What a pass keeps may fill the memory, so only a single one waits for the next rule; of several, each goes to
        # its end at once. On a GPU, too, where a step is short.
        self._waits = len(self._groups) == 1 and lm.device.type == "cpu"
        self._under_way: _Group | None = None
        self._found: dict[int, list[Target | None]] = {}

    @gradients(True)
    def found(self, number: int, on_step: OnStep | None = None) -> list[Target]:
        """The targets of one rule.

        Args:
            number: index of the rule.
            on_step: as for `optimise_targets`; a fact counts as finished when the rules that are walked for have
                stopped it.

        Returns:
            one target per fact, in order. Each is what a search by that rule alone would find, up to the rounding that
            comes from other facts being in the batch for longer.
        """
        if self._waits:
            [members] = self._groups
            if not self._are_found([number]):
                self._under_way = self._under_way or self._group_of(members)
                self._walk(self._under_way, members, [number], on_step)
            if self._are_found(range(len(self.rules))):
                self._under_way = self._make_pass = None  # what a pass keeps is large, and nobody goes on
            elif self._under_way is not None:
                self._under_way.rest()
        elif not self._found:
            for members in self._groups:
                n = len(self._found)
                tell = (lambda done, step, loss, n=n: on_step(n + done, step, loss)) if on_step else None
                self._walk(self._group_of(members), members, range(len(self.rules)), tell)
        return [self._found[index][number] for index in range(len(self._examples))]

    def _are_found(self, numbers: Sequence[int]) -> bool:
        return len(self._found) == len(self._examples) and all(
            targets[number] for targets in self._found.values() for number in numbers
        )

    def _group_of(self, members: Sequence[int]) -> _Group:
        return _Group(self._make_pass([self._examples[index] for index in members]), self.rules, self._F)

    def _walk(self, group: _Group, members: Sequence[int], numbers: Sequence[int], on_step: OnStep | None) -> None:
        with matrices_in_bfloat16(self.lm, self.layer + 1) if self.rules[0].bfloat16 else nullcontext():
            group.walk(numbers, on_step)
        self._found.update(zip(members, group.found(), strict=True))


class _Group:
    """Facts that are optimised together, step by step, until rules have stopped them."""

    def __init__(self, forward: PlainPass | FastPass, rules: Sequence[TargetSettings], F: torch.Tensor | None):
        # The pass drops finished facts later; `_h` and `_searches` keep all.
        self.forward, self._h = forward, forward.h
        is_replayed = _is_replayed(forward)
        self._descent, self._n_steps = _Descent(forward, rules[0], F, is_replayed), max(rule.steps for rule in rules)
        self._replayed = Replayed(self._descent.step) if is_replayed else None
        self._searches = [[_FactProgress(rule) for rule in rules] for _ in range(forward.rows.n_facts)]
        self._unread: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._step = 0
        self._is_descent_due, self._kept = False, None

    def found(self) -> list[list[Target | None]]:
        """Per fact its targets, one per rule; None where a rule has not stopped yet."""
        return [[search.found for search in of_fact] for of_fact in self._searches]

    def walk(self, numbers: Sequence[int], on_step: OnStep | None) -> None:
        """Go on until these rules have stopped every fact."""
        while not all(of_fact[number].found for of_fact in self._searches for number in numbers):
            self._descend()
            is_last = self._step == self._n_steps - 1
            if is_last:
                self._descent.turns.look_at_all()
            self._unread.append(self._replayed() if self._replayed else self._descent.evaluate())
            self._is_descent_due, self._kept = True, None
            self._step += 1
            if len(self._unread) == _steps_between_stop_tests(self._h.device) or is_last:
                loss = self._test()
                if on_step is not None:
                    n_done = sum(all(of_fact[number].found for number in numbers) for of_fact in self._searches)
                    on_step(n_done, self._step - 1, loss)
        if self._replayed is not None and self._replayed.refused:
            self.forward.lm.refuses_replay = True

    def rest(self) -> None:
        """Wait for another rule, perhaps for long: without what the step that is due keeps of its evaluation."""
        self._descend()
        self._is_descent_due = False

    def _descend(self) -> None:
        """The step that follows an evaluation: taken only when another evaluation is wanted."""
        # Between two stop tests nothing here may wait for the device.
        if self._is_descent_due and self._replayed is None:
            self._descent.descend(self._kept)
            if self._kept is not None:
                self._descent.keep(self._kept)

    def _test(self) -> float:
        """Let the rules read the evaluations since the last test. Returns the last mean loss."""
        h, active = self._h, self._descent.active
        tables = torch.stack([table for table, _ in self._unread]).tolist()
        deltas = [delta for _, delta in self._unread]
        going_on = torch.ones(len(active), dtype=torch.bool)
        for index, fact in enumerate(active.tolist()):
            rows = [table[index] for table in tables]
            for search in self._searches[fact]:
                search.read(rows, h[fact], [delta[index] for delta in deltas])
            going_on[index] = not all(search.found for search in self._searches[fact])
        self._unread = []
        # A replayed step keeps all facts: recording it again costs more than the rows of the finished ones.
        if self._replayed is None and not bool(going_on.all()):
            self._kept = going_on.nonzero()[:, 0].to(h.device)
        return sum(row[0] for row in tables[-1]) / len(going_on)


class _Descent:
    """δ of a group's facts, step by step; facts do not influence each other.

    Attributes:
        active: (n_active,) the facts that are still evaluated. A finished one's row of δ may drift on.
        is_replayed: whether steps are replayed on a GPU, where every one does the same work.
    """

    def __init__(
        self, forward: PlainPass | FastPass, settings: TargetSettings, F: torch.Tensor | None, is_replayed: bool
    ):
        self.forward, self.settings, self.is_replayed, h = forward, settings, is_replayed, forward.h
        self.delta = torch.zeros_like(h)
        self.active = torch.arange(len(h), device=h.device)
        self.limit = settings.clamp * h.norm(dim=-1, keepdim=True)
        self.original: torch.Tensor | None = None
        self.mover = step_of(forward, settings, F)
        self.turns = ContextTurns(len(h), forward.rows.n_contexts, settings.contexts_at_once, h.device)
        self.at: torch.Tensor
        self.current: Evaluation

    def evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of the active facts, (n_active, 7), see `Evaluation.table`, and their δ, (n_active, d_model)."""
        self.at = self.delta[self.active].requires_grad_()
        contexts = self.turns.due()
        forward = self.forward if contexts is None or self.is_replayed else self.forward.over(contexts)
        self.current = evaluate(forward, self.at, self.original, self.settings, contexts)
        self.turns.read(self.current.said)
        self.original = self.current.subject_log_probs
        return self.current.table(), self.at.detach()

    def descend(self, kept: torch.Tensor | None = None) -> None:
        """A step from the last evaluation, for all active facts or some (given by their indices among them)."""
        loss = self.current.loss if kept is None else self.current.loss[kept]
        (gradient,) = torch.autograd.grad(loss.sum(), self.at)
        self.mover.move(self.delta, self.active, gradient)
        self.delta.mul_((self.limit / self.delta.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """An evaluation and the step after it, on tensors that stay at the same addresses."""
        found = self.evaluate()
        self.descend()
        return found

    def keep(self, kept: torch.Tensor) -> None:
        """Keep only some of the active facts; `kept` holds their indices among them, ascending."""
        self.forward.keep(kept)
        self.turns.keep(kept)
        self.original, self.active = self.original[kept], self.active[kept]


def _is_replayed(forward: PlainPass | FastPass) -> bool:
    """Whether a step is so short on a GPU that launching its kernels would take longer than running them."""
    lm = forward.lm
    if forward.h.device.type != "cuda" or not isinstance(forward, FastPass) or lm.offloaded or lm.refuses_replay:
        return False
    weights = sum(p.numel() for block in lm.blocks[forward.layer + 1 :] for p in block.parameters())
    n_tokens = sum(tail.mask.numel() for tail in forward.tails)
    return (
        FLOP_PER_WEIGHT * weights * n_tokens <= MOST_REPLAYED_FLOP
        and len({p.device for p in lm.model.parameters()}) == 1
    )


def _steps_between_stop_tests(device: torch.device) -> int:
    """How often to test whether facts are finished.

    On a GPU the test has to wait for the device, so several steps are queued, and a fact is taken from the step it
    stopped at; on a CPU there is nothing to wait for, and an extra step costs time.
    """
    return 4 if device.type == "cuda" else 1


class _FactProgress:
    """The loss of one fact step by step, and where one rule stops it.

    Attributes:
        found: the target, once the rule has stopped.
    """

    def __init__(self, rule: TargetSettings):
        self.rule = rule
        self.rows: list[list[float]] = []
        self.first_hit: int | None = None
        self.found: Target | None = None

    def read(self, rows: Sequence[Sequence[float]], h: torch.Tensor, deltas: Sequence[torch.Tensor]) -> None:
        """Take in evaluations until the one that stops the fact; later ones are of no interest.

        Args:
            rows: per evaluation a row of `Evaluation.table`.
            h: (d_model,) the state before.
            deltas: per evaluation (d_model,), the δ that it was made at.
        """
        if self.found:
            return
        for (*values, hit, in_full), delta in zip(rows, deltas, strict=True):
            step = len(self.rows)
            self.rows.append(values)
            if hit and self.first_hit is None:
                self.first_hit = step
            stopped = self._stopped(step, values[0], bool(in_full))
            if stopped is not None:
                loss, nll, kl, decay, probability = zip(*self.rows, strict=True)
                self.found = Target(h + delta, h.clone(), step, stopped, loss, nll, kl, decay, probability)
                return

    def _stopped(self, step: int, loss: float, in_full: bool) -> str | None:
        """Why the rule stops at this evaluation; None where it goes on."""
        if in_full and loss < LOSS_THRESHOLD:
            return "loss"
        if self.rule.mpes and self.first_hit is not None and step >= self.first_hit + self.rule.mpes_extra_steps:
            return "mpes"
        return "steps" if step == self.rule.steps - 1 else None
