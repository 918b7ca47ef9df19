-- name: is_there :value
-- Whether a database is one of the service: others may hold tables too, but hardly both of these.
SELECT to_regclass('schema_migrations') IS NOT NULL AND to_regclass('users') IS NOT NULL;
