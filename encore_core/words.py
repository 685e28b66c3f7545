"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, noun: str, form: str = ",") -> str:
    """A number of things: "1 fact", "2,000 facts".

    Args:
        n: how many.
        noun: in the singular; its plural has an s.
        form: of the number, as for `format`; "" in names, which commas would cut.
    """
    return f"{n:{form}} {noun}{'s' * (n != 1)}"
