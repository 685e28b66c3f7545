"""A tiny random model of every family, with what sets the family apart really switched on.

Windows are shorter than the prompts, caps are low enough to bend logits, norms and biases are not ones and zeros, so
that a pass that left any of it out would give other numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import tiny_models
import torch
import transformers

from encore_core.models.editable import EditableModel, wrap

N_LAYERS, D_MODEL, D_MLP = 4, 32, 64

SIZES = {"hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4,
         "max_position_embeddings": 128}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
OPENAI = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_inner": D_MLP, "n_positions": 128}
WINDOWS = ["sliding_attention", "full_attention"] * (N_LAYERS // 2)
GEMMA = GROUPED | {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 12, "layer_types": WINDOWS}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
          "image_size": 16, "patch_size": 8}  # fmt: skip
LLAMA_3_ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.2, 1.5, 2.0],
             "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 64}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """How a family's tiny model is made.

    Attributes:
        kind: the name that transformers' classes begin with.
        settings: of the configuration.
        what: the family's ways that are on.
        attention_by_name: whether the family looks its attention up, so that rows can be packed.
        refuses: what is refused, with a word of the message.
    """

    kind: str
    settings: dict[str, Any]
    what: str
    head: str = "ForCausalLM"
    config: str = ""
    attention_by_name: bool = True
    refuses: dict[str, str] = field(default_factory=dict)


FAMILIES = {
    "GPT-2": Tiny("GPT2", OPENAI, "transposed matrices, learned positions, tied", "LMHeadModel"),
    "GPT-J": Tiny("GPTJ", OPENAI | {"rotary_dim": 4}, "attention beside MLP, bias on the logits",
                  attention_by_name=False),
    "GPT-NeoX, Pythia": Tiny("GPTNeoX", SIZES | {"use_parallel_residual": True}, "attention beside MLP, two norms"),
    "GPT-NeoX, one after the other": Tiny("GPTNeoX", SIZES | {"use_parallel_residual": False}, "serial blocks"),
    "Llama 2": Tiny("Llama", SIZES, "untied"),
    "Llama 3": Tiny("Llama", GROUPED | {"rope_parameters": LLAMA_3_ROPE}, "grouped keys, scaled rotary positions"),
    "SmolLM, SmolLM 2": Tiny("Llama", GROUPED | {"tie_word_embeddings": True}, "grouped keys, tied"),
    "SmolLM 3": Tiny("SmolLM3", GROUPED | {"no_rope_layers": [1, 0] * (N_LAYERS // 2)}, "blocks without positions"),
    "Mistral": Tiny("Mistral", GROUPED | {"sliding_window": 5}, "a window of 5 tokens in every block"),
    "Qwen 2.5": Tiny("Qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2,
                                         "tie_word_embeddings": True}, "biases, windows in some blocks, tied"),
    "Qwen 3": Tiny("Qwen3", GROUPED | {"head_dim": 16}, "norms of queries and keys, heads wider than the stream"),
    "Gemma 2": Tiny("Gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
                    "post-norms, both soft caps, alternating windows, scaled embedding"),
    "Gemma 3 (text)": Tiny("Gemma3", GEMMA, "post-norms, norms of queries and keys, alternating windows",
                           config="Gemma3TextConfig"),
    "Gemma 3 (text and images)": Tiny("Gemma3", {"text_config": GEMMA, "vision_config": VISION,
                                                 "mm_tokens_per_image": 4},
                                      "the text tower, beside an image tower of as many blocks",
                                      "ForConditionalGeneration"),
    "Phi-3": Tiny("Phi3", GROUPED | {"rope_parameters": LONG_ROPE, "sliding_window": 9},
                  "fused projections, long rotary positions, a window"),
    "OLMo 2": Tiny("Olmo2", GROUPED, "post-norms alone, norms of queries and keys"),
    "Falcon": Tiny("Falcon", SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": D_MLP},
                   "attention beside MLP, added in place", attention_by_name=False),
    "OPT": Tiny("OPT", SIZES | {"ffn_dim": D_MLP, "word_embed_proj_dim": D_MODEL}, "no module for the MLP"),
    "BLOOM": Tiny("Bloom", {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": 4}, "positions by distance",
                  attention_by_name=False, refuses={"contributions": "do not add up"}),
    "StableLM": Tiny("StableLm", GROUPED, "part of a head is rotated"),
    "Granite": Tiny("Granite", GROUPED | {"residual_multiplier": 0.4, "logits_scaling": 2.0,
                                          "embedding_multiplier": 3.0}, "factors on stream, embedding and logits"),
    "Cohere": Tiny("Cohere", GROUPED | {"logit_scale": 0.5}, "attention beside MLP, scaled logits, tied"),
    "Phi": Tiny("Phi", SIZES, "attention beside MLP, biases"),
}  # fmt: skip
"""From the issue's families down to OLMo 2; those below it are found by structure."""

FOUND_BY_STRUCTURE = ("Falcon", "OPT", "BLOOM", "StableLM", "Granite", "Cohere", "Phi")


@functools.cache
def tokenizer():
    """Sentencepiece-like with a BOS, shared by all (nobody changes it)."""
    return tiny_models.metaspace_tokenizer()


def config_of(tiny: Tiny):
    vocabulary = {"vocab_size": len(tokenizer()), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
                  "initializer_range": 0.2}  # fmt: skip
    settings = dict(tiny.settings)
    if "text_config" in settings:
        settings["text_config"] = settings["text_config"] | vocabulary
    else:
        settings |= vocabulary
    return getattr(transformers, tiny.config or f"{tiny.kind}Config")(**settings)


def random_model(tiny: Tiny, seed: int = 2) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, tiny.kind + tiny.head)(config_of(tiny))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def made(name: str) -> EditableModel:
    return wrap(random_model(FAMILIES[name]), tokenizer(), name)
