"""The queue on real servers: what PostgreSQL decides, and what the index in Redis may never spoil."""
