"""Numbers in sentences."""

from __future__ import annotations

from decimal import Decimal


def counted(n: int, noun: str, form: str = ",") -> str:
    """A number of things: "1 fact", "2,000 facts".

    Args:
        n: how many.
        noun: in the singular; its plural has an s.
        form: of the number, as for `format`; "" in names, which commas would cut.
    """
    return f"{n:{form}} {noun}{'s' * (n != 1)}"


def decimal(value: float, digits: int = 2) -> str:
    """A number with so many significant digits and no exponent, as far as people read it so: "0.000024", "1,300".

    Args:
        value: any number; beyond a thousand millions, and below one of them, it keeps its exponent.
        digits: how many.
    """
    rounded = f"{value:.{digits}g}"
    if not value or not 1e-9 <= abs(value) < 1e9:
        return rounded
    return f"{Decimal(rounded):,f}"
