"""The hyper-parameters of known models, by shape, and the blocks that are edited in others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelRow:
    """Hyper-parameters of one model, found by its shape, so that they serve a local copy or an edited folder, too.

    Attributes:
        model_type, n_layers, d_model, n_vocab: the shape; None matches any.
        common: settings of every method.
        per_method: settings of single methods, by name.
        source: where they come from.
        for_thousands: by name of the method, the settings that differ where thousands of edits are to come.
        start_token: the start token that they are for, if the model's tokenizer puts no token in front (see
            `start_token`): "none" in rows that follow published results.
    """

    model_type: str
    n_layers: int
    d_model: int
    n_vocab: int | None
    common: Mapping[str, Any]
    per_method: Mapping[str, Mapping[str, Any]]
    source: str
    start_token: str = "none"
    for_thousands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_PAPER = "arXiv 2502.01636, tables 6 to 8 (CounterFact)"

MODEL_ROWS = (
    # λp 15,000 is far too stiff for this model; `encore tune` shows how such a row is found.
    ModelRow("llama", 30, 576, None,
             {"layers": (6, 7, 8, 9, 10), "steps": 20, "lambda_p": 300, "lambda_n": 5, "mpes_extra_steps": 1,
              "statistics_tokens": 30_000},
             # For 7B models λ is about 50 times as large, and lr 500 to 1000 times as small, see the cards.
             {"AlphaEdit+NAS": {"nas_facts": 200}, "ENCORE+NAS": {"nas_facts": 200}, "SPHERE": {},
              "ENCORE-N": {"layers": tuple(range(2, 11)), "lambda_p": 900, "mpes_extra_steps": 0},
              "BetaEdit": {"lambda_p": 60}, "LyapLock": {"lambda_p": 20},
              "UltraEdit": {"layers": tuple(range(20, 28)), "lr": 5e-4},
              "StableEdit": {"layers": tuple(range(22, 28)), "lr": 1e-3},
              "CrispEdit": {"layers": tuple(range(20, 28)), "lr": 2e-3}},
             "tuned here on CounterFact",
             "<|endoftext|>",
             # Earlier blocks, whose keys are more specific, and a stiffer matrix. ENCORE-N has these blocks already;
             # pushes make up for what a still stiffer one leaves unsaid. See benchmarks/RESULTS.md.
             {"ENCORE": {"layers": tuple(range(2, 11)), "lambda_p": 900},
              "ENCORE-N": {"lambda_p": 2000, "pushes": 2}}),
    ModelRow("gpt2", 48, 1600, None,
             {"layers": (13, 14, 15, 16, 17), "steps": 20, "lambda_p": 20_000, "lambda_n": 10},
             {"EMMET": {"layers": (17,), "lambda_p": 10_000}, "EMMET+MPES": {"layers": (17,), "lambda_p": 10_000},
              "MEMIT+MPES": {"mpes_extra_steps": 2}, "ENCORE": {"mpes_extra_steps": 3}},
             _PAPER),
    ModelRow("gptj", 28, 4096, None,
             {"layers": (3, 4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 10},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)}},
             "published configurations of MEMIT and EMMET"),
    ModelRow("llama", 32, 4096, 32_000,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 10, "mpes_extra_steps": 0},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)},
              "AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1},
              "MEMIT+MPES": {"mpes_extra_steps": 1}, "ENCORE": {"mpes_extra_steps": 2}},
             _PAPER),
    ModelRow("llama", 32, 4096, 128_256,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20, "mpes_extra_steps": 0},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)},
              "AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1},
              "MEMIT+MPES": {"mpes_extra_steps": 2}, "ENCORE": {"mpes_extra_steps": 1},
              "CrispEdit": {"layers": (19, 20, 21, 22, 23)}},
             _PAPER),
    ModelRow("qwen2", 28, 3584, None,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20},
             {"AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1}},
             "published configurations of MEMIT and AlphaEdit"),
    ModelRow("mistral", 32, 4096, None,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20},
             {"AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1}},
             "published configurations of MEMIT and AlphaEdit"),
)  # fmt: skip


def find_model_row(model_type: str, n_layers: int, d_model: int, n_vocab: int) -> ModelRow | None:
    """The row of hyper-parameters for a model of this shape, if there is one."""
    for row in MODEL_ROWS:
        if (row.model_type, row.n_layers, row.d_model) == (model_type, n_layers, d_model) and (
            row.n_vocab in (None, n_vocab)
        ):
            return row
    return None


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Edited blocks for a model without a row of its own: up to five, a fifth to a third of the way up."""
    last = max(0, min(n_layers - 2, round(n_layers * 0.35)))
    return tuple(range(max(0, last - 4), last + 1))


def late_layers(n_layers: int) -> tuple[int, ...]:
    """Edited blocks of the methods that follow the gradient of the answer (UltraEdit, StableEdit, CrispEdit).

    The share of the depth is that of the output layers which UltraEdit edits in Llama-3-8B, 18 to 24 of 32.
    """
    last = max(0, min(n_layers - 2, round(n_layers * 0.75)))
    return tuple(range(min(last, round(n_layers * 0.5625)), last + 1))
