"""A self-hosted video download service."""

__version__ = "0.1.0"
