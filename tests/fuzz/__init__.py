"""Requests and texts that nobody thought of: schemathesis for the API, coverage-guided bytes for what parses."""
