"""The fault harness: several services on shared servers, users, a nemesis, and a checker over what is left.

`python -m tests.chaos --help` runs it. What is real: the services and all their processes, Postgres, Redis, files,
HTTP. The stand-in takes YouTube's place. Which properties are checked is read in `checker`.
"""
