"""Releasing data: local randomisers on each person's own record, queries on a trusted table."""
