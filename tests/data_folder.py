"""Whose data folder is used: nobody's, a temporary one, but by tests of the embedded model, which is unpacked once."""

from __future__ import annotations

import os

import pytest

USERS = os.environ.get("ENCORE_HOME")
"""As it was when the tests were begun."""


def be_users(patch: pytest.MonkeyPatch) -> None:
    """From now on, the user's own."""
    if USERS is None:
        patch.delenv("ENCORE_HOME", raising=False)
    else:
        patch.setenv("ENCORE_HOME", USERS)
