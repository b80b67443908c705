"""TOML text for plain values: the standard library reads TOML, this writes it.

Only what a recipe holds is supported: strings, booleans, integers, finite and non-finite floats,
lists of these, and tables. `tomllib.loads(dumps(table)) == table` for every such table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def dumps(table: Mapping[str, object]) -> str:
    """`table` as a TOML document; raises `TypeError` for a value that TOML can't hold (None)."""
    return "\n".join(_lines(table, ())).strip("\n") + "\n"


def literal(value: object) -> str:
    """One value as TOML writes it on the right of `=`; nested tables become inline tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {literal(item)}" for name, item in value.items())
        return "{ " + inner + " }" if inner else "{}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    raise TypeError(f"Expected a value that TOML can hold, got {type(value).__name__}={value!r}.")


def _lines(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    """Plain keys first: a key after a sub-table's header would belong to the sub-table."""
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    if path and (not inner or len(inner) < len(table)):
        yield f"\n[{'.'.join(_key(part) for part in path)}]"
    for name, value in table.items():
        if name not in inner:
            yield f"{_key(name)} = {literal(value)}"
    for name, value in inner.items():
        yield from _lines(value, (*path, name))


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    shown = (
        _ESCAPES.get(char) or (f"\\u{ord(char):04x}" if ord(char) < 32 or char == "\x7f" else char)
        for char in text
    )
    return '"' + "".join(shown) + '"'


def _float(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    shown = repr(float(value))
    mantissa, exponent, power = shown.partition("e")
    return shown if "." in mantissa or not exponent else f"{mantissa}.0e{power}"
