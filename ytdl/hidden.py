"""`Hidden` keeps what an object holds out of its repr, and so out of tracebacks, log lines and a debugger's list."""


class Hidden:
    """Mixed into types that hold a secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
