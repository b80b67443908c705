"""The exception tree is the one that its docstring draws."""

from __future__ import annotations

import inspect
import re

import pytest

from reticent import errors

ROOT = errors.ReticentError
EXIT_CODES = {
    "InputError": 2,
    "UnsupportedError": 2,
    "GateError": 3,
    "BudgetExhaustedError": 4,
    "EvidenceError": 5,
}


def drawn_tree() -> dict[str, tuple[str, int | None]]:
    """Name to (parent, exit code or None) as the module docstring draws them."""
    found: dict[str, tuple[str, int | None]] = {}
    ancestors = [ROOT.__name__]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)([A-Z]\w+Error)\b(.*)$", line)
        if match is None or match[2] == ROOT.__name__:
            continue
        depth = len(match[1]) // 4
        ancestors[depth:] = [match[2]]
        code = re.search(r"\(exit (\d)\)", match[3])
        found[match[2]] = (ancestors[depth - 1], int(code[1]) if code else None)
    return found


def tree_in_code() -> dict[str, type[Exception]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, ROOT) and value is not ROOT
    }


def test_the_drawn_tree_is_the_tree_in_code() -> None:
    drawn, coded = drawn_tree(), tree_in_code()
    assert set(drawn) == set(coded)
    for name, (parent, _) in drawn.items():
        assert coded[name].__mro__[1].__name__ == parent


def test_the_drawn_exit_codes_are_those_of_the_command_line_contract() -> None:
    drawn = {name: code for name, (_, code) in drawn_tree().items() if code is not None}
    assert drawn == EXIT_CODES
    for name, cls in tree_in_code().items():
        branch = next(kind for kind in EXIT_CODES if issubclass(cls, getattr(errors, kind)))
        assert cls.exit_code == EXIT_CODES[branch], name
    assert ROOT.exit_code == 1


def test_bad_input_is_also_a_value_error_and_a_missing_extra_an_import_error() -> None:
    assert issubclass(errors.InputError, ValueError)
    with pytest.raises(ImportError, match=r"pip install 'reticent\[serve\]'"):
        raise errors.MissingExtraError("starlette", "serve")


def test_evidence_errors_are_no_value_errors() -> None:
    """Code that turns ValueErrors into something milder must not swallow refused evidence."""
    assert not issubclass(errors.EvidenceError, ValueError)
    assert not issubclass(errors.BudgetExhaustedError, ValueError)
