"""Tags of what is sent, against those that a client has: one comparison for values and files."""


def matches(wanted: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` names the tag, by the weak comparison of RFC 9110, section 8.8.3.2."""
    known = {part.strip().removeprefix("W/") for part in wanted.split(",")} if wanted else set()
    return "*" in known or tag.removeprefix("W/") in known
