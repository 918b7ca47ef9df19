"""What an extractor says, as what it should be: sites send numbers as fractions, as text, or as nonsense.

Each function answers None for what cannot be meant, so that one odd field never costs a download.
"""

import math
from typing import Any

LARGEST = 2**63 - 1


def whole(value: Any) -> int | None:
    """A number from 0 to 2**63 - 1 without its fraction."""
    exact = number(value)
    return int(value) if exact is not None and int(value) <= LARGEST else None


def number(value: Any) -> float | None:
    """A finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        exact = float(value)
    except OverflowError:
        return None
    return exact if math.isfinite(exact) and exact >= 0 else None


def text(value: Any) -> str | None:
    """Text that can be written as UTF-8; halves of characters become question marks."""
    return str(value).encode(errors="replace").decode() if isinstance(value, str) and value else None
