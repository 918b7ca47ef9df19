"""What can go wrong, as codes that clients may rely on.

A code is stable; the sentence beside it is for people. Nothing here knows HTTP: `api/problems.py` holds
the only map from code to status.
"""

from dataclasses import dataclass
from typing import Literal

# What an address is blocked for when it happens often: failed sign-ins, spent refresh tokens, forged tokens, limits
# gone over, and addresses that do not exist.
Offence = Literal["login", "reuse", "forgery", "limit", "probe"]


@dataclass(frozen=True)
class Fault:
    """One field of a request that is wrong. `field` is a path such as `options.clip`."""

    field: str
    message: str


class Error(Exception):
    """An expected failure with a sentence for the user; anything else is a bug and answers as `internal`.

    `extra` becomes members of the problem document; `retry_after` is in seconds. `offence` is set where an address
    that does this often should be blocked. `evidence` is a digest of the credential that was refused: an honest client
    brings the same old one again and again, which counts once; somebody who tries his luck brings many.
    """

    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        faults: tuple[Fault, ...] = (),
        retry_after: float | None = None,
        offence: Offence | None = None,
        evidence: bytes = b"",
        **extra: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.faults = faults
        self.retry_after = retry_after
        self.offence = offence
        self.evidence = evidence
        self.extra = extra


class Malformed(Error):
    """The request could not be read at all: broken JSON, a header out of its grammar."""

    code = "malformed"


class Invalid(Error):
    """The request was read, and a field of it is wrong."""

    code = "invalid"


class Unauthorized(Error):
    code = "unauthorized"


class Forbidden(Error):
    code = "forbidden"


class Blocked(Error):
    """The client's address is refused, whoever asks."""

    code = "blocked"


class NotFound(Error):
    code = "not_found"


class Conflict(Error):
    code = "conflict"


class Gone(Error):
    code = "gone"


class Locked(Error):
    code = "locked"


class Unsupported(Error):
    """The body's media type is not one this route reads."""

    code = "unsupported_media_type"


class Unavailable(Error):
    """Something this needs is not there just now (database, Redis, a part that is switched off)."""

    code = "unavailable"


class RateLimited(Error):
    """Asked too often; `policies` are the names of those that have nothing left."""

    code = "rate_limited"

    def __init__(
        self, message: str, *, policies: list[str], retry_after: float, offence: Offence | None = "limit"
    ) -> None:
        super().__init__(message, retry_after=retry_after, offence=offence)
        self.extra = {"violated-policies": policies}


def invalid(field: str, message: str) -> Invalid:
    """An `Invalid` about exactly one field."""
    return Invalid(f"{field}: {message}", faults=(Fault(field, message),))
