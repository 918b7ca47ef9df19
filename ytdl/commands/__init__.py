"""What an operator does beside a running service, a module a feature; `cli` has their arguments.

What a command needs is imported inside it, so that the others start fast.
"""


class Failed(Exception):
    """The command cannot do what it was asked to; each argument is a sentence for the operator."""
