"""What is wrong with a recipe, in sentences: file, table, key, value, remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_EXPECTED = {
    "string_type": ("a string", "Put the value in quotes."),
    "int_type": ("a whole number", "Write it without quotes or decimal point."),
    "float_type": ("a number", "Write it without quotes."),
    "finite_number": ("a finite number", "Write a number."),
    "bool_type": ("true or false", "Write it without quotes."),
    "tuple_type": ("a list", 'Write it in brackets, such as ["user"].'),
    "dict_type": ("a table", "Write its keys under a header of its own."),
    "mapping_type": ("a table", "Write its keys under a header of its own."),
    "model_type": ("a table", "Write its keys under a header of its own."),
    "string_too_short": ("a string that is not empty", "Write a value, or remove the key."),
    "too_short": ("a list that is not empty", "Write a value, or remove the key."),
    "string_pattern_mismatch": (
        "1 to 64 small letters, digits, dots, dashes or underscores, a letter or digit first",
        "Rename it.",
    ),
}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def explain(
    error: ValidationError, root: type[BaseModel], source: str, overridden: Sequence[str]
) -> str:
    """One line per problem; `root` is the model whose keys are valid, `source` names the file."""
    return "\n".join(_line(item, root, source, overridden) for item in error.errors())


def _line(item: ErrorDetails, root: type[BaseModel], source: str, overridden: Sequence[str]) -> str:
    context: Mapping[str, Any] = item.get("ctx", {})
    if item["type"] == "recipe":
        path: tuple[str, ...] = (context["table"], context["key"])
        what = f"expected {context['expected']}, got {context['key']}={context['value']!r}. "
        return _where(path, source, overridden) + what + str(context["remedy"])
    path = tuple(str(part) for part in item["loc"])
    where, key, value = _where(path, source, overridden), _key(path), item["input"]
    if item["type"] == "extra_forbidden":
        return where + f"unknown key, got {key}={value!r}. {_nearest(path, root)}"
    if item["type"] == "missing":
        return where + f"expected the key {key!r}, got none. Add it."
    expected, remedy = _expected(item, context)
    return where + f"expected {expected}, got {key}={value!r}. {remedy}"


def _where(path: tuple[str, ...], source: str, overridden: Sequence[str]) -> str:
    """File, table and key; `--set` instead of the file where the value came from there."""
    dotted = ".".join(path)
    given = [key for key in overridden if dotted == key or dotted.startswith(f"{key}.")]
    names = [part for part in path if not part.isdigit()]
    if len(names) < 2:
        place = names[0] if names else "recipe"
    else:
        place = f"[{names[0]}] {'.'.join(names[1:])}"
    return f"{'--set' if given else source}: {place}: "


def _key(path: tuple[str, ...]) -> str:
    names = [part for part in path if not part.isdigit()]
    return names[-1] if names else "recipe"


def _expected(item: ErrorDetails, context: Mapping[str, Any]) -> tuple[str, str]:
    kind = item["type"]
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _LIMITS:
        words, bound = _LIMITS[kind]
        return f"a number of {words} {context[bound]:g}", "Choose a value in that range."
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        near = difflib.get_close_matches(str(item["input"]), valid, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
        return f"one of {', '.join(valid)}", remedy
    if kind == "value_error":
        return str(context["error"]), "Change the value."
    return item["msg"], "Change the value."


def _nearest(path: tuple[str, ...], root: type[BaseModel]) -> str:
    """The key that was probably meant: the nearest in its table, or the same name elsewhere."""
    tables = dict(_tables(root))
    here = list(tables.get(path[:-1], ()))
    near = difflib.get_close_matches(path[-1], here, 1, cutoff=0.6)
    if near:
        return f"The nearest valid key is {near[0]!r}."
    elsewhere = [table for table, keys in tables.items() if path[-1] in keys]
    if elsewhere:
        table = f"table [{elsewhere[0][0]}]" if elsewhere[0] else "top of the file"
        return f"This key belongs to the {table}."
    everywhere = sorted({key for keys in tables.values() for key in keys})
    far = difflib.get_close_matches(path[-1], here, 1, cutoff=0.0)
    distant = difflib.get_close_matches(path[-1], everywhere, 1, cutoff=0.75)
    nearest = far[0] if far else (distant[0] if distant else "")
    return f"The nearest valid key is {nearest!r}; valid here: {', '.join(here)}."


def _tables(root: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    yield (), tuple(root.model_fields)
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield (name,), tuple(field.annotation.model_fields)
