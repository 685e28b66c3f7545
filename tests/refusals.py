"""How the program refuses: one line, raised as `InputError`."""

from __future__ import annotations

import pytest

from encore_core.errors import InputError
from encore_core.hub import Trouble

NO_HUB = Trouble("the hub cannot be reached", "look at the network")
"""What `hub_trouble` says without a network, for tests that put it in its place."""


def refusal(call, *args, **kwargs) -> str:
    """The message with which a call refuses; always one line."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
