"""What is put into messages: one line, printable, not too long."""

from __future__ import annotations

import pytest

from encore_core.errors import InputError, first_line, quoted
from encore_core.facts import FactError
from encore_core.storage import WriteError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines \x00 \x1b[31m"), "two"),
        (ValueError("a \x00 \x1b[31m"), "a \\x00 \\x1b[31m"),
        (KeyError("shape"), "'shape'"),
        (ValueError(""), "ValueError"),
        (ValueError("half \ud800"), "half \\ud800"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_a_library_said_is_told_on_one_line(error, said):
    assert first_line(error) == said


def test_messages_stay_short():
    assert len(first_line(ValueError("x" * 5000))) == 200 and first_line(ValueError("x" * 5000)).endswith("…")
    assert len(quoted("x" * 5000)) == 60


@pytest.mark.parametrize("kind", [InputError, FactError, WriteError])
def test_a_refusal_is_one_line_whatever_a_file_calls_its_names(kind):
    message = str(kind("the key 'a\u2028b\nc\x1b\ud800' of “Málaga 日本\u00a0👩\u200d👧”"))
    assert message == r"the key 'a\u2028b\nc\x1b\ud800' of “Málaga 日本" + "\u00a0👩\u200d👧”"
    assert len(message.splitlines()) == 1 and message.encode()
