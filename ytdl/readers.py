"""A role in PostgreSQL that reads the views of the schema `analytics` and nothing else, for dashboards.

`make` makes it or brings it up to date, and looks afterwards at what it may do: what somebody granted to everybody
counts too. All of it is one transaction, so a role that could do more is never there.
"""

import psycopg
from psycopg import sql

from ytdl import errors

SCHEMA = "analytics"
# On every role of ours, so that no other is ever changed.
MARK = "ytdl: reads the views of the schema analytics"
MOST_CONNECTIONS = 5
# The role could set others; what it may read and write does not rest on them.
SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "15s",
    "lock_timeout": "1s",
    "search_path": SCHEMA,
    "timezone": "UTC",
}
ROLE = b"""
    SELECT shobj_description(oid, 'pg_authid') AS mark,
        rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
        OR EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid) AS mighty
    FROM pg_roles WHERE rolname = %(name)s"""
GRANTS = """
    GRANT CONNECT ON DATABASE {database} TO {role};
    GRANT USAGE ON SCHEMA {schema} TO {role};
    GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
    ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role}"""
# Beyond the views: tables and views of which it may do anything with all or a column, and places to make some.
BEYOND = b"""
    SELECT format('use %%s', c.oid::regclass) AS what
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND (has_table_privilege(%(name)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
            OR has_any_column_privilege(%(name)s, c.oid, 'INSERT, UPDATE, REFERENCES')
            OR n.nspname <> %(schema)s AND has_any_column_privilege(%(name)s, c.oid, 'SELECT'))
    UNION ALL
    SELECT format('use %%s', c.oid::regclass) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_'
        AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(%(name)s, c.oid, 'USAGE, SELECT, UPDATE') END
    UNION ALL
    SELECT format('make tables in %%I', nspname) FROM pg_namespace
    WHERE nspname !~ '^pg_' AND has_schema_privilege(%(name)s, oid, 'CREATE')
    UNION ALL
    SELECT 'make schemas' WHERE has_database_privilege(%(name)s, current_database(), 'CREATE')
    ORDER BY 1"""


async def make(url: str, name: str, password: str) -> bool:
    """Whether it is new. The server gets the password as a SCRAM verifier, so its log has nothing to tell.

    Raises `errors.Conflict` for a role that is somebody else's or could do more, `errors.Forbidden` where the service's
    own role may not make roles, and `errors.Unavailable` when no server answers.
    """
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=10) as connection:
            return await _make(connection, name, password)
    except psycopg.OperationalError as e:
        raise errors.Unavailable(f"PostgreSQL does not answer: {str(e).splitlines()[0]}") from None
    except psycopg.errors.InsufficientPrivilege as e:
        raise errors.Forbidden(f"The role of DATABASE_URL may not do that: {e.diag.message_primary}.") from None


Connection = psycopg.AsyncConnection[tuple[object, ...]]


async def _make(connection: Connection, name: str, password: str) -> bool:
    role = sql.Identifier(name)
    found = await (await connection.execute(ROLE, {"name": name})).fetchone()
    if found and found[0] != MARK:
        raise errors.Conflict(f"There is a role {name} that was not made by this command; choose another name.")
    if found and found[1]:
        raise errors.Conflict(f"Somebody has given {name} powers or made it a member of another role; drop it first.")
    if not found:
        await connection.execute(sql.SQL("CREATE ROLE {role}").format(role=role))
        await connection.execute(sql.SQL("COMMENT ON ROLE {role} IS {mark}").format(role=role, mark=MARK))
    await _let_in(connection, name, password)
    await _grant(connection, role)
    await _refuse_more(connection, name)
    return not found


async def _let_in(connection: Connection, name: str, password: str) -> None:
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    statement = "ALTER ROLE {role} LOGIN CONNECTION LIMIT {most} PASSWORD {verifier}"
    values = {"role": sql.Identifier(name), "most": sql.Literal(MOST_CONNECTIONS), "verifier": sql.Literal(verifier)}
    await connection.execute(sql.SQL(statement).format(**values))
    for setting, value in SETTINGS.items():
        change = sql.SQL("ALTER ROLE {role} SET {setting} = {value}")
        await connection.execute(change.format(role=values["role"], setting=sql.Identifier(setting), value=value))


async def _grant(connection: Connection, role: sql.Identifier) -> None:
    database = sql.Identifier(connection.info.dbname)
    for statement in GRANTS.split(";"):
        text = sql.SQL(statement)
        await connection.execute(text.format(database=database, role=role, schema=sql.Identifier(SCHEMA)))


async def _refuse_more(connection: Connection, name: str) -> None:
    beyond = await (await connection.execute(BEYOND, {"name": name, "schema": SCHEMA})).fetchall()
    if beyond:
        more = ", ".join(str(what) for (what,) in beyond[:5]) + (" and more" if len(beyond) > 5 else "")
        raise errors.Conflict(f"{name} could also {more}, as everybody can: revoke that from PUBLIC first.")
