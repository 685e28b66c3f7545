"""Where a model's weights go: which device, in which number format, and over which devices when one is too small.

`BALANCED` spreads the blocks over all GPUs; blocks that do not fit stay in the computer's memory and are copied to a
GPU whenever they are used (accelerate's device maps). Edited matrices are moved to their GPU for good, see
`EditableModel.parameter`.
"""

from __future__ import annotations

import psutil
import torch
from torch import nn

from encore_core.errors import InputError, quoted

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

BALANCED = "balanced"

DEVICE_NAMES = ("cuda", "mps", "cpu", BALANCED)
"""What a user may ask for, besides "cuda:1" and the like."""


def choose_device(device: str | None = None) -> torch.device:
    """The device asked for, or the best one present: cuda, then mps, then cpu.

    Args:
        device: its name; for `BALANCED` the result is the device of the first blocks.

    Raises:
        InputError: for a device that is unknown or absent.
    """
    present = present_devices()
    if device == BALANCED and not torch.cuda.is_available():
        raise InputError(
            f"Device {BALANCED!r} spreads a model over GPUs, and there is none here; present: {', '.join(present)}."
        )
    if device in (None, "", "auto", BALANCED):
        return torch.device(present[0])
    if device not in present:
        raise InputError(f"Unknown or absent device {quoted(device)}; present here: {', '.join(present)}.")
    return torch.device(device)


def device_name(device: str | None = None) -> str:
    """The full name of the device asked for; runs on devices of one name wait for each other.

    Raises:
        InputError: as `choose_device`.
    """
    chosen = choose_device(device)
    if device == BALANCED:
        return BALANCED
    return f"cuda:{chosen.index or 0}" if chosen.type == "cuda" else str(chosen)


def present_devices() -> list[str]:
    """Names of the devices of this machine, the best first."""
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return present


def choose_dtype(dtype: str | None = None) -> torch.dtype:
    """The torch dtype for a name; float32 by default.

    Raises:
        InputError: for any other name.
    """
    if dtype in (None, "", "auto"):
        return torch.float32
    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {quoted(dtype)}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def free_memory(device: torch.device) -> int:
    """Bytes of memory free on a device now; Apple's GPUs share the computer's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device has in all."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total


def room_for_weights(for_editing: int) -> dict[int | str, int]:
    """Bytes of weights that each device may hold when they are spread, by accelerate's names of the devices.

    Args:
        for_editing: bytes to keep free on the first GPU.
    """
    room: dict[int | str, int] = {
        index: int(0.95 * free_memory(torch.device("cuda", index))) for index in range(torch.cuda.device_count())
    }
    room[0] = max(0, room[0] - for_editing)
    return room | {"cpu": int(0.9 * psutil.virtual_memory().available)}


# -- modules with offloaded weights ------------------------------------------------------------------------------------


def running_device(module: nn.Module) -> torch.device:
    """The device on which a module computes, even if its weights are kept elsewhere."""
    device = next(module.parameters()).device
    hook = offload_hook(module)
    return torch.device(hook.execution_device) if device.type == "meta" and hook is not None else device


def offload_hook(module: nn.Module):
    """The hook by which accelerate loads a module's own weights when it runs; None if they are not offloaded."""
    hook = getattr(module, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        if getattr(part, "offload", False):
            return part
    return None


def kept_weight(module: nn.Module) -> torch.Tensor:
    """A module's weight, wherever it is kept; it must not be written to."""
    hook = offload_hook(module)
    return module.weight.data if hook is None else hook.weights_map["weight"]


def settle(module: nn.Module) -> None:
    """Move an offloaded module's weights to the device where it computes, for good."""
    from accelerate.hooks import remove_hook_from_module

    hook = offload_hook(module)
    if hook is None:
        return
    values = {name: hook.weights_map[name] for name, _ in module.named_parameters(recurse=False)}
    remove_hook_from_module(module)
    for name, value in values.items():
        # A copy even if it is on the device already, because the map may belong to a file or be shared.
        parameter = nn.Parameter(value.to(hook.execution_device, copy=True), requires_grad=False)
        module.register_parameter(name, parameter)


def whole_state_dict(model: nn.Module):
    """Names and tensors of a model, one after the other; offloaded ones are read where they are kept.

    Yields:
        (name, tensor), in the model's order.
    """
    modules = dict(model.named_modules())
    for key, tensor in model.state_dict().items():
        if tensor.device.type == "meta":
            path, _, name = key.rpartition(".")
            tensor = offload_hook(modules[path]).weights_map[name]
        yield key, tensor
