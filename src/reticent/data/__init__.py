"""Tasks: records, the public label, the private attributes; sets, files, partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reticent.data.catalogue import load, names

__all__ = ["load", "names"]


def __getattr__(name: str) -> Any:
    # Lazy: a client needs `Task`'s vocabulary, not the readers of every set.
    if name in __all__:
        from reticent.data import catalogue

        return getattr(catalogue, name)
    raise AttributeError(f"module 'reticent.data' has no attribute {name!r}")
