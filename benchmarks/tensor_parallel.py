"""Whether transformers' own tensor parallelism takes the gradients that the search for targets needs.

    torchrun --nproc-per-node 2 benchmarks/tensor_parallel.py

A random Llama is loaded whole, and over the processes by `tp_plan="auto"` (gloo, CPU). Both get a δ added to the output
of a block, as the search for targets does; compared are logits and the gradient at δ.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BLOCK, TOKEN = 1, 3


def saved_model(folder: Path) -> Path:
    """A random Llama of six blocks, made by the first process."""
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    dist.barrier()
    return folder


def logits_and_gradient(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the last position, and the gradient of one token's log-probability at δ = 0."""
    delta = torch.zeros(1, model.config.hidden_size, requires_grad=True)

    def add(module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, TOKEN] = hidden[:, TOKEN] + delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.model.layers[BLOCK].register_forward_hook(add)
    logits = model(input_ids=torch.arange(5, 95, 11)[None]).logits
    handle.remove()
    logits = (logits.full_tensor() if hasattr(logits, "full_tensor") else logits)[0, -1].float()
    (gradient,) = torch.autograd.grad(torch.log_softmax(logits, -1)[42], delta)
    return logits.detach(), gradient


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dist.init_process_group("gloo")
    folder = saved_model(Path(tempfile.gettempdir()) / f"tensor-parallel-{os.environ['MASTER_PORT']}")
    whole, parts = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()
        for more in ({}, {"tp_plan": "auto"})
    )
    (logits, gradient), (of_parts, gradient_of_parts) = logits_and_gradient(whole), logits_and_gradient(parts)
    matrix = parts.model.layers[0].mlp.down_proj.weight
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes; an edited matrix is a {type(matrix).__name__} {tuple(matrix.shape)}")
        print(f"of which one process holds {tuple(matrix.to_local().shape)}")
        print(f"largest difference of a logit: {float((logits - of_parts).abs().max()):.1e}")
        print(f"gradient at δ, relative: {float((gradient - gradient_of_parts).norm() / gradient.norm()):.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
