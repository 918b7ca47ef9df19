"""What makes a password good enough: length, kinds of characters, nothing that is guessed first; and making one.

The rules hold for people who choose; what an operator sets is taken as it is.
"""

import functools
import secrets
from collections.abc import Iterator
from pathlib import Path

LENGTH = range(8, 129)
# As many as a sign-in reads.
LONGEST = 1024
LOOKALIKES = (str.maketrans("013457@$!8", "oleastasib"), str.maketrans("013457@$!8", "oieastaslb"))


def faults(password: str, username: str, email: str) -> list[str]:
    """Every rule of passwords that this one breaks, as ends of a sentence; empty for a good one. Of one that is too
    long only that is said: it may be as long as a body, and nobody else is served while it is looked through."""
    return list(_faults(password, username, email))


def make(username: str) -> str:
    """A random one that keeps the rules, for the person of this name."""
    while faults(password := secrets.token_urlsafe(18), username, ""):
        pass
    return password


def unusable(password: str) -> str | None:
    """Why nobody could ever sign in with this password, as an end of a sentence: no request may hold it."""
    if len(password) > LONGEST:
        return f"must have at most {LONGEST} characters"
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in password):
        return "must not hold NUL characters or halves of others"
    return None


def _faults(password: str, username: str, email: str) -> Iterator[str]:
    if len(password) not in LENGTH:
        yield f"must have {LENGTH[0]} to {LENGTH[-1]} characters"
        if len(password) > LENGTH[-1]:
            return
    kinds = (
        ("an upper-case letter", str.isupper),
        ("a lower-case letter", str.islower),
        ("a digit", str.isdigit),
        ("a symbol", lambda c: not c.isalnum() and not c.isspace()),
    )
    for name, is_kind in kinds:
        if not any(map(is_kind, password)):
            yield f"must have {name}"
    yield from _guessable(password.lower(), username.lower(), email.lower().partition("@")[0])


def _guessable(password: str, username: str, mailbox: str) -> Iterator[str]:
    if username and username in password:
        yield "must not hold the user name"
    # Below three letters nearly every password would hold it by accident.
    elif len(mailbox) >= 3 and mailbox in password:
        yield "must not hold the e-mail address's first part"
    if is_common(password):
        yield "is among the most common passwords"


def is_common(password: str) -> bool:
    """Whether a common word is left when digits and symbols around and between and look-alikes are undone."""
    lower = password.lower()
    core = lower.strip("".join({c for c in lower if not c.isalpha()}))
    letters = "".join(c for c in core if c.isalpha())
    forms = {lower, core, letters, *(text.translate(table) for text in (lower, core) for table in LOOKALIKES)}
    return len(set(core)) <= 1 or any(form in _common_words() for form in forms)


@functools.cache
def _common_words() -> frozenset[str]:
    text = (Path(__file__).parent / "common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))
