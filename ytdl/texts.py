"""What a line of text that people choose may hold: a name, a title, a note."""

import unicodedata

# Marks that turn the direction of the text around them, so that a name can be shown as another.
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def faults(text: str, longest: int) -> list[str]:
    """The rule that a line of 1 to `longest` characters breaks, as the end of a sentence; empty for a good one. One
    that is too long is not looked through: it may be as long as a body, and nobody else is served meanwhile."""
    if not 1 <= len(text) <= longest:
        return [f"must have 1 to {longest} characters"]
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI for c in text):
        return ["must not hold control characters"]
    return []
