"""What is put into messages: one line, printable, not too long."""

from __future__ import annotations

import pytest

from encore_core.errors import quoted, reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines \x00 \x1b[31m"), "two lines \\x00 \\x1b[31m"),
        (KeyError("shape"), "'shape'"),
        (ValueError(""), "ValueError"),
        (ValueError("half \ud800"), "half \\ud800"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_a_library_said_is_told_on_one_line(error, said):
    assert reason(error) == said


def test_messages_stay_short():
    assert len(reason(ValueError("x" * 5000))) == 200 and reason(ValueError("x" * 5000)).endswith("…")
    assert len(quoted("x" * 5000)) == 60
