"""Targets: the hidden state z at the last edited layer with which the model would say the new fact.

For a fact and its contexts c (the plain prompt and the sampled prefixes) a vector δ, added at the subject's last token
to the block output of the last edited layer, is optimised by Adam:

    loss = mean_c [ -log p(target | c) / |target| ]
         + kl_factor · KL( p_δ ‖ p_0 )( · | "{subject} is a", at the subject's last token )
         + weight_decay · ‖δ‖ / ‖h‖²
    ‖δ‖ ≤ clamp · ‖h‖ after every step,        z = h + δ

with h the state in the plain prompt (MEMIT, arXiv 2210.07229). Most-Probable Early Stopping (MPES, arXiv 2502.01636)
stops a fact once every target token is the most probable one at its place in every context.

Facts are optimised together and each stops on its own. The fast pass computes only what δ can change: the blocks above
the edited one, the tokens from the subject's last one on (those before stand as keys and values), and logits where a
target token is predicted. It runs the rows packed into one sequence (see `packing`) where the family's attention allows
that, else padded. `PlainPass` runs everything; a family with which the fast ones disagree falls back to it.

As in the published codes the n-th evaluation of the loss is the last one and no step follows it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from encore_core.autograd import gradients
from encore_core.facts import Fact
from encore_core.forward.bfloat16 import matrices_in_bfloat16
from encore_core.forward.cuda_graph import Replayed
from encore_core.forward.packed_pass import record_packed, run_packed
from encore_core.forward.packing import Packing
from encore_core.forward.prefix_cache import SharedStarts
from encore_core.forward.prompts import Encoded, batches_by_length, encode_contexts, encode_subject_prompts, pad
from encore_core.forward.tracing import Prefix, added_to_output, record_prefix, run
from encore_core.models.device_map import total_memory
from encore_core.models.editable import EditableModel
from encore_core.models.memory import CPU_TOKENS, GPU_TOKENS, Sizes

log = logging.getLogger(__name__)

LOSS_THRESHOLD = 0.05
MERGE_TOKENS = 64
"""Up to this many tokens in a group, one pass serves the contexts and the subject prompts together."""

LEAST_TOKENS = 64
"""Tokens of a group where memory is shortest; a fact with more of them is run on its own."""

FLOP_PER_WEIGHT = 4
"""Of a token in a step: a product and a sum, forward, and the same for the gradient of what went in."""

MOST_REPLAYED_FLOP = 4e12
"""Steps up to so much work are recorded on a GPU (see `replay`). Python takes some 5 ms to launch a block's kernels; a
large GPU does 0.2e12 in that time, in float32."""

CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference between the losses of the fast and the plain pass before the plain one is used."""


@dataclass(frozen=True)
class TargetSettings:
    """Hyper-parameters of the optimisation, see the module's formula.

    Attributes:
        steps: evaluations of the loss at most.
        lr: Adam's learning rate.
        clamp: largest ‖δ‖ / ‖h‖.
        weight_decay, kl_factor: weights of the two penalties.
        mpes: whether to stop as soon as the target is the most probable continuation.
        mpes_extra_steps: steps taken after that.
        bfloat16: whether matrix products are taken in bfloat16; δ, the losses and Adam stay in float32.
    """

    steps: int
    lr: float
    clamp: float
    weight_decay: float
    kl_factor: float
    mpes: bool
    mpes_extra_steps: int
    bfloat16: bool = False


@dataclass(frozen=True)
class Target:
    """What the optimisation found for a fact. The series have one entry per evaluation of the loss.

    Attributes:
        z: (d_model,) float32, the state wanted.
        h: (d_model,) float32, the state in the plain prompt before.
        steps: gradient steps taken.
        stopped: "loss" (below the threshold), "mpes" (most probable) or "steps" (the last one was reached).
        loss, nll, kl, decay: the loss and its three terms.
        probability: mean over contexts of the geometric-mean probability of a target token.
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
"""`on_step(n_finished, step, mean_loss)`, called after every evaluation."""


@gradients(True)
def optimise_targets(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    layer: int,
    settings: TargetSettings,
    *,
    fast: bool = True,
    max_tokens: int | None = None,
    on_step: OnStep | None = None,
) -> list[Target]:
    """Find the target state of every fact.

    Args:
        lm: the model with the edits made so far in it; the caller holds its lock.
        facts: the batch.
        prefixes: sampled prefixes; the plain prompt comes on top of them.
        layer: index of the last edited block.
        settings: hyper-parameters.
        fast: use the fast pass where it agrees with the plain one.
        max_tokens: tokens run at once; bounds memory. By default what suits the device.
        on_step: told of the progress.

    Returns:
        one target a fact, in order.
    """
    examples = _Example.of_facts(lm, facts, prefixes)
    make_pass = functools.partial(PlainPass, lm, layer)
    if fast and (starts := _starts_of_fast_pass(lm, layer, examples, settings)) is not None:
        make_pass = functools.partial(FastPass, lm, layer, starts=starts, packed=lm.checked_paths[layer] == "packed")
    budget = max_tokens or default_max_tokens(lm, layer)
    results: dict[int, Target] = {}
    for group in batches_by_length([example.cost for example in examples], budget):
        finished = len(results)
        tell = (lambda done, step, loss, n=finished: on_step(n + done, step, loss)) if on_step else None
        forward = make_pass([examples[i] for i in group])
        with matrices_in_bfloat16(lm, layer + 1) if settings.bfloat16 else nullcontext():
            found = _optimise_group(forward, settings, tell)
        results.update(zip(group, found, strict=True))
    return [results[i] for i in range(len(facts))]


def default_max_tokens(lm: EditableModel, layer: int) -> int:
    """Tokens to run at once: many enough for the processor's matrix units, and few enough for the device's memory.

    It follows from what the device has, not from what is free at the moment, so that a batch is divided, and therefore
    rounded, in the same way every time.

    Args:
        lm: the model.
        layer: index of the last edited block; blocks above it are what a backward pass goes through.
    """
    most = CPU_TOKENS if lm.device.type == "cpu" else GPU_TOKENS
    sizes = Sizes.of_model(lm.model, lm.parts)
    # Offloaded blocks are run again one by one, and their weights are not on the device.
    weights, n_above = (0, 1) if lm.offloaded else (sizes.n_weights * lm.dtype.itemsize, lm.n_layers - 1 - layer)
    room = (total_memory(lm.device) - weights) / 2
    fitting = room / max(1, sizes.saved_per_token(n_above) * lm.dtype.itemsize)
    while most > max(fitting, LEAST_TOKENS):
        most //= 2
    return most


@dataclass(frozen=True)
class _Example:
    """A fact as tokens: one row a context, and the row whose distribution must stay."""

    contexts: tuple[Encoded, ...]
    subject: Encoded

    @classmethod
    def of_facts(cls, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[_Example]:
        return list(map(cls, encode_contexts(lm, facts, prefixes), encode_subject_prompts(lm, facts)))

    @property
    def cost(self) -> int:
        """Tokens that the fast pass runs for this fact (the last target token is only predicted, never read)."""
        return len(self.contexts) * max(len(row.ids) - 1 - row.lookup for row in self.contexts)


@dataclass
class _Rows:
    """Where the rows of several facts stand in a batch.

    Attributes:
        n_facts, n_contexts: every fact has the same number of contexts; row r belongs to fact r // n_contexts.
        position_rows, position_columns: (n_positions,) where target tokens are predicted.
        position_targets: (n_positions,) the token ids wanted there.
    """

    n_facts: int
    n_contexts: int
    position_rows: torch.Tensor
    position_columns: torch.Tensor
    position_targets: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[_Example], device: torch.device, from_lookup: bool) -> _Rows:
        n_contexts = len(examples[0].contexts)
        rows, columns, targets = [], [], []
        for row, encoded in enumerate(c for example in examples for c in example.contexts):
            first = encoded.n_prompt - 1 - (encoded.lookup if from_lookup else 0)
            for offset, token in enumerate(encoded.target_ids):
                rows.append(row)
                columns.append(first + offset)
                targets.append(token)
        tensors = (torch.tensor(values, device=device) for values in (rows, columns, targets))
        return cls(len(examples), n_contexts, *tensors)

    def keep(self, facts: torch.Tensor) -> _Rows:
        """The same for some of the facts; `facts` holds their indices, ascending."""
        new_number = torch.full((self.n_facts,), -1, device=facts.device)
        new_number[facts] = torch.arange(len(facts), device=facts.device)
        fact, context = self.position_rows // self.n_contexts, self.position_rows % self.n_contexts
        kept = new_number[fact] >= 0
        rows = new_number[fact[kept]] * self.n_contexts + context[kept]
        return _Rows(len(facts), self.n_contexts, rows, self.position_columns[kept], self.position_targets[kept])

    def rows_of(self, facts: torch.Tensor) -> torch.Tensor:
        """Row numbers of some facts, (len(facts) · n_contexts,)."""
        return (facts[:, None] * self.n_contexts + torch.arange(self.n_contexts, device=facts.device)).reshape(-1)


class PlainPass:
    """Logits with δ in place, from full passes over every token and block. Slow, and right for every family."""

    def __init__(self, lm: EditableModel, layer: int, examples: Sequence[_Example]):
        self.lm, self.layer = lm, layer
        self.rows = _Rows.of(examples, lm.device, from_lookup=False)
        contexts = [encoded for example in examples for encoded in example.contexts]
        self.batch = pad(lm, [encoded.read.ids for encoded in contexts])
        self.lookups = torch.tensor([encoded.lookup for encoded in contexts], device=lm.device)
        self.subject_batch = pad(lm, [example.subject.ids for example in examples])
        self.subject_lookups = torch.tensor([example.subject.lookup for example in examples], device=lm.device)
        with torch.no_grad():
            hidden = run(lm, self.batch.ids, self.batch.mask, stop=layer + 1)
        plain = torch.arange(0, len(contexts), self.rows.n_contexts, device=lm.device)
        self.h = hidden[plain, self.lookups[plain]].float()

    def logits(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits where target tokens are predicted, and at the subject's last token of "{subject} is a".

        Args:
            delta: (n_facts, d_model).

        Returns:
            (n_positions, n_vocab) and (n_facts, n_vocab).
        """
        block = self.lm.blocks[self.layer]
        row_numbers = torch.arange(len(self.lookups), device=delta.device)
        per_row = delta.repeat_interleave(self.rows.n_contexts, dim=0)
        with added_to_output(block, row_numbers, self.lookups, per_row):
            logits = run(self.lm, self.batch.ids, self.batch.mask)
        fact_numbers = torch.arange(len(delta), device=delta.device)
        with added_to_output(block, fact_numbers, self.subject_lookups, delta):
            subject_logits = run(self.lm, self.subject_batch.ids, self.subject_batch.mask)
        return (
            logits[self.rows.position_rows, self.rows.position_columns],
            subject_logits[fact_numbers, self.subject_lookups],
        )

    def keep(self, facts: torch.Tensor) -> None:
        """Go on with some of the facts; `facts` holds their indices, ascending."""
        rows = self.rows.rows_of(facts)
        self.batch = type(self.batch)(self.batch.ids[rows], self.batch.mask[rows])
        self.lookups = self.lookups[rows]
        self.subject_batch = type(self.batch)(self.subject_batch.ids[facts], self.subject_batch.mask[facts])
        self.subject_lookups = self.subject_lookups[facts]
        self.h = self.h[facts]
        self.rows = self.rows.keep(facts)


@dataclass(frozen=True)
class _Starts:
    """What the rows of a batch begin with (see `contexts`), run through the whole model.

    Attributes:
        shared: the tokens.
        below: their prefix up to the edited block; None when nothing is shared.
        above: their prefix in the blocks above it; None when there is nothing shared, or no block.
    """

    shared: SharedStarts
    below: Prefix | None
    above: Prefix | None

    @classmethod
    @torch.no_grad()
    def of(cls, lm: EditableModel, layer: int, examples: Sequence[_Example]) -> _Starts:
        shared = SharedStarts.of(lm, list(zip(*(example.contexts for example in examples), strict=True)))
        below, hidden = shared.record(lm, 0, layer + 1)
        above = None
        if layer + 1 < lm.n_layers:
            above, _ = shared.record(lm, layer + 1, None, hidden)
        return cls(shared, below, above)


@dataclass
class _Tail:
    """Rows cut at their lookup position: what lies before as keys and values, what comes from there on as states.

    Attributes:
        prefix: tokens before the lookup position, blocks above the edited one.
        hidden: (n_rows, length, d_model) output of the edited block from the lookup position on, without δ.
        mask: (n_rows, length).
    """

    prefix: Prefix | None
    hidden: torch.Tensor
    mask: torch.Tensor
    ids: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.ids = torch.zeros_like(self.mask)

    @functools.cached_property
    def packed(self) -> tuple[Packing, torch.Tensor, torch.Tensor]:
        """The rows as one sequence: packing, states (n_tokens, d_model), and the places of the rows' first tokens."""
        packing = Packing(self.mask, self.prefix)
        rows = torch.arange(len(self.mask), device=self.mask.device)
        return packing, packing.pack(self.hidden), packing.at(rows, torch.zeros_like(rows))

    @classmethod
    @torch.no_grad()
    def of(
        cls, lm: EditableModel, layer: int, rows: Sequence[tuple[Encoded, int]], starts: _Starts, packed: bool
    ) -> _Tail:
        """The tails of rows, each given with the number of its context.

        Args:
            lm, layer: model and edited block.
            rows: token rows without the tokens that are only predicted, and their contexts.
            starts: what rows of a context begin with.
            packed: whether the rows are run as one sequence.
        """
        own = [starts.shared.rest(row, context) for row, context in rows]
        batch = pad(lm, [ids for ids, _ in own])
        lookup = torch.tensor([position for _, position in own], device=lm.device)
        contexts = torch.tensor([context for _, context in rows], device=lm.device)
        below, above = (
            prefix.rows(contexts) if prefix is not None else None for prefix in (starts.below, starts.above)
        )
        if packed:
            packing = Packing(batch.mask, below)
            states = run_packed(lm, packing, ids=packing.pack(batch.ids), stop=layer + 1)
            hidden = packing.unpack(states)
        else:
            hidden = run(lm, batch.ids, batch.mask, stop=layer + 1, prefix=below)
        n_before = int(lookup.max())
        if n_before and layer + 1 < lm.n_layers:
            mask = (torch.arange(n_before, device=lm.device) < lookup[:, None]).long()
            if packed:
                packing = Packing(mask, above)
                before = record_packed(lm, packing, start=layer + 1, hidden=packing.pack(hidden[:, :n_before]))
            else:
                before, _ = record_prefix(
                    lm, batch.ids[:, :n_before], mask, start=layer + 1, hidden=hidden[:, :n_before], prefix=above
                )
            above = above.followed_by(before) if above is not None else before
        length = int((batch.mask.sum(-1) - lookup).max())
        columns = lookup[:, None] + torch.arange(length, device=lm.device)
        mask = (columns < batch.mask.sum(-1, keepdim=True)).long()
        columns = columns.clamp_max(batch.ids.shape[1] - 1)
        return cls(above, hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1])), mask)

    def logits_packed(
        self, lm: EditableModel, layer: int, delta: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """As `logits`, from the rows as one sequence."""
        packing, hidden, firsts = self.packed
        hidden = hidden.index_add(0, firsts, delta.to(hidden.dtype))
        return run_packed(lm, packing, start=layer + 1, hidden=hidden, logits_at=packing.at(rows, columns))

    def logits(
        self, lm: EditableModel, layer: int, delta: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Logits at some positions with δ, (n_rows, d_model), added at the first token of every row."""
        first = (self.hidden[:, 0] + delta.to(self.hidden.dtype))[:, None]
        hidden = torch.cat([first, self.hidden[:, 1:]], dim=1)
        return run(
            lm,
            self.ids,
            self.mask,
            start=layer + 1,
            hidden=hidden,
            prefix=self.prefix,
            logits_at=(rows, columns),
        )

    def keep(self, rows: torch.Tensor) -> _Tail:
        prefix = self.prefix.rows(rows) if self.prefix is not None else None
        return _Tail(prefix, self.hidden[rows], self.mask[rows])


class FastPass:
    """The logits of `PlainPass` from the blocks above the edited one and the tokens from the lookup position on."""

    def __init__(
        self, lm: EditableModel, layer: int, examples: Sequence[_Example], starts: _Starts, packed: bool = True
    ):
        self.lm, self.layer, self.packed = lm, layer, packed
        self.rows = _Rows.of(examples, lm.device, from_lookup=True)
        contexts = [(encoded.read, number) for example in examples for number, encoded in enumerate(example.contexts)]
        subjects = [(example.subject, SharedStarts.NONE) for example in examples]
        # Packed, the subjects' rows ride along for nothing. Padded, few tokens are a matter of reading the weights; of
        # many, padding the subjects to the contexts' length would cost more than a second reading.
        self.merged = packed or sum(example.cost for example in examples) <= MERGE_TOKENS
        parts = [contexts + subjects] if self.merged else [contexts, subjects]
        self.tails = [_Tail.of(lm, layer, rows, starts, packed) for rows in parts]
        self.h = self.tails[0].hidden[: len(contexts) : self.rows.n_contexts, 0].float()

    def logits(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `PlainPass.logits`."""
        rows, facts = self.rows, torch.arange(len(delta), device=delta.device)
        per_row = delta.repeat_interleave(rows.n_contexts, dim=0)
        at, subject_at = (rows.position_rows, rows.position_columns), (facts, torch.zeros_like(facts))
        if not self.merged:
            return (
                self.tails[0].logits(self.lm, self.layer, per_row, *at),
                self.tails[1].logits(self.lm, self.layer, delta, *subject_at),
            )
        both = (torch.cat([at[0], len(per_row) + facts]), torch.cat([at[1], subject_at[1]]))
        of_tail = self.tails[0].logits_packed if self.packed else self.tails[0].logits
        logits = of_tail(self.lm, self.layer, torch.cat([per_row, delta]), *both)
        # Not two slices: their gradients would each be as large as the whole, and mostly zero.
        return logits.split([len(at[0]), len(facts)])

    def keep(self, facts: torch.Tensor) -> None:
        """As `PlainPass.keep`."""
        rows = self.rows.rows_of(facts)
        if self.merged:
            subject_rows = self.rows.n_facts * self.rows.n_contexts + facts
            self.tails = [self.tails[0].keep(torch.cat([rows, subject_rows]))]
        else:
            self.tails = [self.tails[0].keep(rows), self.tails[1].keep(facts)]
        self.h = self.h[facts]
        self.rows = self.rows.keep(facts)


@dataclass
class _Evaluation:
    """The loss of every fact and what it is made of; each (n_facts,), `hit` boolean."""

    loss: torch.Tensor
    nll: torch.Tensor
    kl: torch.Tensor
    decay: torch.Tensor
    probability: torch.Tensor
    hit: torch.Tensor
    subject_log_probs: torch.Tensor

    def table(self) -> torch.Tensor:
        """(n_facts, 6): loss, nll, kl, decay, probability, hit."""
        columns = (self.loss.detach(), self.nll, self.kl, self.decay, self.probability, self.hit.float())
        return torch.stack(columns, dim=-1)


def _evaluate(
    forward: PlainPass | FastPass,
    delta: torch.Tensor,
    original: torch.Tensor | None,
    settings: TargetSettings,
) -> _Evaluation:
    """The loss at δ.

    Args:
        delta: (n_facts, d_model).
        original: (n_facts, n_vocab) log-probabilities after "{subject} is a" without δ; None when δ is zero.
    """
    rows = forward.rows
    with torch.autocast(delta.device.type, torch.bfloat16, enabled=settings.bfloat16):
        logits, subject_logits = forward.logits(delta)
    n_rows = rows.n_facts * rows.n_contexts
    token_nll = F.cross_entropy(logits.float(), rows.position_targets, reduction="none")
    zeros = torch.zeros(n_rows, device=token_nll.device)
    n_tokens = zeros.index_add(0, rows.position_rows, torch.ones_like(token_nll))
    row_nll = zeros.index_add(0, rows.position_rows, token_nll) / n_tokens
    misses = zeros.index_add(0, rows.position_rows, (logits.argmax(-1) != rows.position_targets).float())
    by_fact = (rows.n_facts, rows.n_contexts)
    nll = row_nll.view(by_fact).mean(-1)

    subject_log_probs = subject_logits.float().log_softmax(-1)
    original = subject_log_probs.detach() if original is None else original
    kl = settings.kl_factor * (subject_log_probs.exp() * (subject_log_probs - original)).sum(-1)
    # The norm's gradient at zero is undefined; torch returns zero there, as wanted.
    decay = settings.weight_decay * delta.norm(dim=-1) / forward.h.norm(dim=-1) ** 2
    return _Evaluation(
        loss=nll + kl + decay,
        nll=nll.detach(),
        kl=kl.detach(),
        decay=decay.detach(),
        probability=(-row_nll.detach()).exp().view(by_fact).mean(-1),
        hit=misses.view(by_fact).sum(-1) == 0,
        subject_log_probs=original,
    )


def _optimise_group(forward: PlainPass | FastPass, settings: TargetSettings, on_step: OnStep | None) -> list[Target]:
    descent = _Descent(forward, settings)
    n_facts, h = forward.rows.n_facts, forward.h
    replayed = Replayed(descent.step) if _is_replayed(forward) else None
    progress = [_FactProgress(settings) for _ in range(n_facts)]
    results: list[Target | None] = [None] * n_facts
    unread: list[tuple[torch.Tensor, torch.Tensor]] = []

    for step in range(settings.steps):
        unread.append(replayed() if replayed else descent.evaluate())
        kept: torch.Tensor | None = None
        if len(unread) == _steps_between_stop_tests(h.device) or step == settings.steps - 1:
            tables = torch.stack([table for table, _ in unread]).tolist()
            going_on = torch.ones(len(descent.active), dtype=torch.bool)
            for index, fact in enumerate(descent.active.tolist()):
                stopped_at = None if results[fact] else progress[fact].read([table[index] for table in tables])
                if stopped_at is not None:
                    z = h[fact] + unread[stopped_at][1][index]
                    results[fact] = progress[fact].target(z, h[fact].clone())
                going_on[index] = results[fact] is None
            unread = []
            if on_step is not None:
                mean_loss = sum(row[0] for row in tables[-1]) / len(going_on)
                on_step(sum(result is not None for result in results), step, mean_loss)
            if not bool(going_on.any()):
                break
            # What is replayed goes on with all of them: to record it anew costs more than the finished ones' rows.
            if replayed is None and not bool(going_on.all()):
                kept = going_on.nonzero()[:, 0].to(h.device)
        # Between two stop tests nothing here may wait for the device.
        if replayed is None:
            descent.descend(kept)
            if kept is not None:
                descent.keep(kept)
    if replayed is not None and replayed.refused:
        forward.lm.refuses_replay = True
    return results


class _Descent:
    """δ of the facts of a group under Adam, which works element by element, so that facts do not see each other.

    Attributes:
        active: (n_active,) the facts that are still evaluated. A finished one's row of δ may drift on.
    """

    def __init__(self, forward: PlainPass | FastPass, settings: TargetSettings):
        self.forward, self.settings, h = forward, settings, forward.h
        self.delta = torch.zeros_like(h)
        self.active = torch.arange(len(h), device=h.device)
        self.limit = settings.clamp * h.norm(dim=-1, keepdim=True)
        self.original: torch.Tensor | None = None
        self.first_moment, self.second_moment = torch.zeros_like(h), torch.zeros_like(h)
        # On a GPU the number of steps is there, too, where it can be counted up without waiting.
        self.on_gpu = h.device.type == "cuda"
        self.n_steps = torch.zeros((), device=h.device if self.on_gpu else "cpu")
        self.at: torch.Tensor
        self.current: _Evaluation

    def evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of the active facts, see `_Evaluation.table`, and the δ of each, (n_active, d_model)."""
        self.at = self.delta[self.active].requires_grad_()
        self.current = _evaluate(self.forward, self.at, self.original, self.settings)
        self.original = self.current.subject_log_probs
        return self.current.table(), self.at.detach()

    def descend(self, kept: torch.Tensor | None = None) -> None:
        """A step of Adam from the last evaluation, for some of the facts (indices among the active) or all."""
        loss = self.current.loss if kept is None else self.current.loss[kept]
        (gradient,) = torch.autograd.grad(loss.sum(), self.at)
        adam(
            [self.delta], [torch.zeros_like(self.delta).index_copy_(0, self.active, gradient)],
            [self.first_moment], [self.second_moment], [], [self.n_steps],
            capturable=self.on_gpu, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.settings.lr, weight_decay=0.0,
            eps=1e-8, maximize=False,
        )  # fmt: skip
        self.delta.mul_((self.limit / self.delta.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """An evaluation and the step behind it, on tensors that stay where they are."""
        found = self.evaluate()
        self.descend()
        return found

    def keep(self, kept: torch.Tensor) -> None:
        """Go on with some of the active facts; `kept` holds their indices among them, ascending."""
        self.forward.keep(kept)
        self.original, self.active = self.original[kept], self.active[kept]


def _is_replayed(forward: PlainPass | FastPass) -> bool:
    """Whether a step is so short on a GPU that launching it would take longer than running it."""
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
    """How often to look whether facts are finished.

    On a GPU looking means waiting for it, so several steps are queued and a fact is taken from the step it stopped at;
    on a CPU there is nothing to wait for, and a step too many costs time.
    """
    return 4 if device.type == "cuda" else 1


class _FactProgress:
    """The loss of one fact step by step, and when it stops."""

    def __init__(self, settings: TargetSettings):
        self.settings = settings
        self.rows: list[list[float]] = []
        self.first_hit: int | None = None
        self.stopped = ""

    def read(self, rows: Sequence[Sequence[float]]) -> int | None:
        """Take in evaluations until the one that stops the fact. Returns which of them that is, None if none does."""
        for number, (*values, hit) in enumerate(rows):
            step = len(self.rows)
            self.rows.append(values)
            if hit and self.first_hit is None:
                self.first_hit = step
            if values[0] < LOSS_THRESHOLD:
                self.stopped = "loss"
            elif (
                self.settings.mpes
                and self.first_hit is not None
                and step >= self.first_hit + self.settings.mpes_extra_steps
            ):
                self.stopped = "mpes"
            elif step == self.settings.steps - 1:
                self.stopped = "steps"
            if self.stopped:
                return number
        return None

    def target(self, z: torch.Tensor, h: torch.Tensor) -> Target:
        loss, nll, kl, decay, probability = zip(*self.rows, strict=True)
        return Target(z, h, len(self.rows) - 1, self.stopped, loss, nll, kl, decay, probability)


TargetPath = Literal["packed", "padded", "plain"]


def _starts_of_fast_pass(
    lm: EditableModel, layer: int, examples: Sequence[_Example], settings: TargetSettings
) -> _Starts | None:
    """What the fast pass begins from, or None for a model that no fast pass is right for.

    Found out once a model and layer: a fast and the plain pass must give the same loss for a fact with a nonzero δ. The
    first that does so, packed before padded, is written into `lm.checked_paths`.
    """
    if lm.checked_paths.get(layer) == "plain":
        return None
    reasons: list[str] = []
    try:
        starts = _Starts.of(lm, layer, examples)
        if layer not in lm.checked_paths:
            lm.checked_paths[layer], reasons = _choose_path(lm, layer, examples[0], settings, starts)
    except _FAMILY_ERRORS as error:
        lm.checked_paths[layer], reasons = "plain", [_reason(error)]
    path = lm.checked_paths[layer]
    if reasons:
        log.warning(
            "Model %s does not take the fastest target pass (%s); the %s one is used.",
            lm.name,
            "; ".join(reasons),
            path,
        )
    return starts if path != "plain" else None


_FAMILY_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError)
"""Whatever a family's forward pass does not take, it says so in one of these; the plain pass asks for less."""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _choose_path(
    lm: EditableModel, layer: int, example: _Example, settings: TargetSettings, starts: _Starts
) -> tuple[TargetPath, list[str]]:
    """The fastest pass whose loss of a fact with a random δ is the plain pass's, and why faster ones are not taken."""
    plain = PlainPass(lm, layer, [example])
    direction = torch.randn(plain.h.shape, generator=torch.Generator().manual_seed(0)).to(plain.h)
    delta = 0.3 * plain.h.norm() * direction / direction.norm()
    # The divergence counts in full here, so that a difference in the subject prompts' rows shows as well. Products in
    # bfloat16 would blur what is to be compared.
    settings = replace(settings, kl_factor=1.0, bfloat16=False)
    original = _evaluate(plain, torch.zeros_like(delta), None, settings).subject_log_probs
    wanted = float(_evaluate(plain, delta, original, settings).loss)
    reasons = []
    for path in ("packed", "padded"):
        try:
            forward = FastPass(lm, layer, [example], starts, packed=path == "packed")
            loss = float(_evaluate(forward, delta, original, settings).loss)
        except _FAMILY_ERRORS as error:
            reasons.append(f"{path}: {_reason(error)}")
            continue
        if abs(wanted - loss) <= CHECK_TOLERANCE.get(lm.dtype, 1e-3) * max(abs(wanted), 1e-6):
            return path, reasons
        reasons.append(f"{path}: losses {wanted:.6f} and {loss:.6f}")
    return "plain", reasons
