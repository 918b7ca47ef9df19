"""The role as which dashboards read PostgreSQL, for whoever executes their statements."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

_names = (f"reader_{os.getpid()}_{n}" for n in itertools.count())
Reading = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def dropped(url: str) -> Iterator[str]:
    """A name for a role in that database; the role goes with the end, for it would outlive the database."""
    name = next(_names)
    try:
        yield name
    finally:
        with psycopg.connect(url, autocommit=True) as owner:
            if owner.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
                owner.execute(f"DROP OWNED BY {name}".encode())
                owner.execute(f"DROP ROLE {name}".encode())


@contextmanager
def reading(url: str, name: str) -> Iterator[Reading]:
    """A connection as that role. The test's server asks for no password: who may open its socket may be anyone."""
    with psycopg.connect(url, user=name, autocommit=True) as connection:
        yield connection
