"""The register: every kind of attack that the suite can run on a finished model."""

from __future__ import annotations

from reticent.audit.suite import Entry

ENTRIES: tuple[Entry, ...] = ()
