"""Files: what was written is what is read; nothing in a file is executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import csv, parquet

from reticent.data.catalogue import load
from reticent.data.files import from_arrays, from_file
from reticent.data.task import Kind
from reticent.errors import ConfigError, DataError, InputError

N = 24
ROWS = np.arange(N)
TABLE: dict[str, Any] = {
    "amount": (ROWS * 0.25).tolist(),
    "count": ROWS.tolist(),
    "town": [("a", "b, with comma", "ü")[row % 3] for row in ROWS],
    "owner": [bool(row % 2) for row in ROWS],
    "user": [f"u{row // 4}" for row in ROWS],
    "sex": [("f", "m")[row // 4 % 2] for row in ROWS],
    "repaid": [("yes", "no")[row // 3 % 2] for row in ROWS],
}
Write = Callable[[dict[str, Any], Path], Path]


def write_csv(table: dict[str, Any], folder: Path) -> Path:
    csv.write_csv(pyarrow.table(table), folder / "loans.csv")
    return folder / "loans.csv"


def write_parquet(table: dict[str, Any], folder: Path) -> Path:
    parquet.write_table(pyarrow.table(table), folder / "loans.parquet")
    return folder / "loans.parquet"


def write_dictionaries(table: dict[str, Any], folder: Path) -> Path:
    encoded = {
        name: pyarrow.array(values).dictionary_encode()
        if isinstance(values[0], str)
        else pyarrow.array(values)
        for name, values in table.items()
    }
    parquet.write_table(pyarrow.table(encoded), folder / "loans.parquet", row_group_size=7)
    return folder / "loans.parquet"


tables = pytest.mark.parametrize("write", [write_csv, write_parquet, write_dictionaries])


def write_npz(folder: Path, **changes: Any) -> Path:
    arrays = {
        "x": np.arange(2.0 * N).reshape(N, 2),
        "public": ROWS % 3,
        "sex": ROWS // 4 % 2,
        "user": ROWS // 4,
    } | changes
    path = folder / "own.npz"
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


@tables
def test_a_table_comes_back_as_it_was_written(write: Write, tmp_path: Path) -> None:
    task = load(str(write(TABLE, tmp_path)), public="repaid", private=("sex",), unit="user")
    assert task.x.shape == (N, 6)
    assert task.x[:, 0].tolist() == TABLE["amount"]
    assert task.x[:, 1].tolist() == TABLE["count"]
    assert task.x[:, 2:5].argmax(axis=1).tolist() == (ROWS % 3).tolist()
    assert task.x[:, 5].tolist() == (ROWS % 2).tolist()
    assert task.users is not None
    assert task.users.tolist() == (ROWS // 4).tolist()
    assert [task.class_names[label] for label in task.public] == TABLE["repaid"]
    assert [task.attribute_names["sex"][code] for code in task.private["sex"]] == TABLE["sex"]
    assert (task.name, task.label, task.unit, task.synthetic) == ("loans", "repaid", "user", False)
    assert task.source.startswith("loans.")


@tables
def test_missing_values_are_refused_or_dropped_with_their_row(write: Write, tmp_path: Path) -> None:
    gaps = TABLE | {
        "amount": [None if row == 5 else value for row, value in enumerate(TABLE["amount"])],
        "town": [None if row == 9 else value for row, value in enumerate(TABLE["town"])],
        "user": [None if row == 20 else value for row, value in enumerate(TABLE["user"])],
    }
    path = write(gaps, tmp_path)
    with pytest.raises(DataError, match=r"'amount' has 1 missing values, first in row=5"):
        from_file(path, public="repaid", private=("sex",))
    task = from_file(path, public="repaid", private=("sex",), missing="drop")
    kept = np.setdiff1d(ROWS, [5, 9, 20])
    assert task.x[:, 1].tolist() == kept.tolist()
    assert task.users is not None
    assert task.users.tolist() == (kept // 4).tolist()


def test_csv_words_for_missing_are_missing(tmp_path: Path) -> None:
    for word in ("", "?", "NA", "nan", "NULL"):
        path = tmp_path / "t.csv"
        path.write_text(f"f,s,y\n1,0,a\n2,1,b\n{word},0,a\n4,1,b\n")
        with pytest.raises(DataError, match=r"'f' has 1 missing values, first in row=2"):
            from_file(path, public="y", private=("s",))
        assert len(from_file(path, public="y", private=("s",), missing="drop")) == 3


def test_parquet_decimals_are_numbers_and_dates_are_refused(tmp_path: Path) -> None:
    decimals = pyarrow.array([Decimal(row) / 4 for row in ROWS.tolist()])
    task = from_file(
        write_parquet(TABLE | {"count": decimals}, tmp_path), public="repaid", private=("sex",)
    )
    assert task.x[:, 1].tolist() == (ROWS / 4).tolist()
    for kind in (pyarrow.date32(), pyarrow.timestamp("s")):
        days = pyarrow.array((ROWS * 86400).tolist(), pyarrow.int64())
        if kind == pyarrow.date32():
            days = pyarrow.array(ROWS.tolist(), pyarrow.int32())
        path = write_parquet(TABLE | {"count": days.cast(kind)}, tmp_path)
        with pytest.raises(DataError, match="'count' holds dates or times"):
            from_file(path, public="repaid", private=("sex",))


def test_parquet_lists_are_refused(tmp_path: Path) -> None:
    path = write_parquet(TABLE | {"count": [[1.0, 2.0]] * N}, tmp_path)
    with pytest.raises(DataError, match="one value a row in column 'count'"):
        from_file(path, public="repaid", private=("sex",))


def test_an_npz_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_npz(tmp_path, recording=ROWS // 2, town=np.array(["a", "b"] * (N // 2)))
    task = load("own.npz", root=tmp_path)
    assert np.array_equal(task.x, np.arange(2.0 * N).reshape(N, 2))
    assert np.array_equal(task.public, ROWS % 3)
    assert set(task.private) == {"sex", "town"}
    assert task.attribute_names["town"] == ("a", "b")
    assert task.users is not None
    assert task.recordings is not None
    assert np.array_equal(task.users, ROWS // 4)
    assert np.array_equal(task.recordings, ROWS // 2)
    assert (task.name, task.source) == ("own", "own.npz")
    chosen = from_file(path, public="sex", private="town")
    assert (set(chosen.private), chosen.label) == ({"town"}, "sex")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": None}, r"an array 'x' in 'own.npz', found \['public', 'sex', 'user'\]"),
        ({"public": None}, "an array 'public'"),
        ({"x": np.full((N, 2), np.nan)}, "'x' holds NaN or infinity, first in row=0"),
        ({"x": np.full((N, 2), 1e300)}, "'x' holds NaN or infinity, first in row=0"),
        ({"x": np.full((N, 2), "a")}, "numbers in 'x', got dtype=<U1"),
        ({"x": np.zeros((N, 2), complex)}, "numbers in 'x', got dtype=complex"),
        ({"x": np.zeros((N - 1, 2))}, r"'public' of shape \(23,\)"),
        ({"public": np.zeros(N, int)}, "'public' has one class only"),
        ({"sex": np.linspace(0, 1, N)}, "bins={'sex': 3}"),
        ({"sex": np.zeros((N, 2), int)}, r"'sex' of shape \(24,\)"),
        ({"user": np.linspace(0, 1, N)}, "'users', got 24 distinct real numbers"),
    ],
)
def test_bad_arrays_are_refused_in_words(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        from_file(write_npz(tmp_path, **changes))


class Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_arrays_are_refused_and_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    hidden = write_npz(tmp_path, sex=np.array([Bomb(trace)] * N, dtype=object))
    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Bomb(trace)))
    for path in (hidden, plain):
        with pytest.raises(DataError, match="refused because loading them would execute code"):
            from_file(path)
    assert not trace.exists()
    pickle.loads(plain.read_bytes())
    assert trace.exists(), "the bomb works, so the test can fail"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def corrupted(path: Path) -> None:
    np.savez_compressed(path, x=np.random.default_rng(0).random((N, 2)), public=ROWS % 3)
    spoiled = bytearray(path.read_bytes())
    spoiled[60:90] = b"\xff" * 30
    path.write_bytes(spoiled)


def single(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros((N, 2)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def altered(path: Path) -> None:
    spoiled = bytearray(path.read_bytes())
    spoiled[200] ^= 1
    path.write_bytes(spoiled)


@pytest.mark.parametrize("spoil", [truncated, corrupted, altered, single, empty])
def test_broken_npz_files_are_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = write_npz(tmp_path)
    spoil(path)
    with pytest.raises(DataError, match=r"'own.npz' isn't an .npz of plain arrays"):
        from_file(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "isn't a table with one header line"),
        ("t.csv", b"a,b,y\n1,2\n", "isn't a table with one header line"),
        ("t.csv", b"a,a,y\n1,2,3\n4,5,6\n", r"distinct column names, got \['a'\]"),
        ("t.csv", b"a;s;y\n1;0;1\n2;1;0\n", "a column named 'y', found none"),
        ("t.csv", b"a,s,y\n", "at least one record"),
        ("t.parquet", b"PAR1 and then nothing", "isn't a Parquet table"),
        ("t.txt", b"a,s,y\n", "ending in"),
    ],
)
def test_broken_tables_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        from_file(path, public="y", private=("s",))


@pytest.mark.parametrize("name", ["none.csv", "none.npz", "none.parquet"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"a file at path='.*{name}', found none"):
        load(str(tmp_path / name), public="y")
    with pytest.raises(DataError, match="found none"):
        load(name, root=tmp_path, public="y")


def test_options_that_a_file_does_not_take_are_refused(tmp_path: Path) -> None:
    table, arrays = write_csv(TABLE, tmp_path), write_npz(tmp_path)
    with pytest.raises(DataError, match="Expected public=, the column to predict"):
        from_file(table)
    with pytest.raises(
        ConfigError, match=r"'loans.csv' takes the options .*'drop'.* got \['dorp'\]"
    ):
        load(str(table), public="repaid", private=("sex",), dorp=("town",))
    with pytest.raises(ConfigError, match=r"takes the options \['bins', 'kind'\], got \['drop'\]"):
        load(str(arrays), drop=("sex",))
    with pytest.raises(DataError, match="missing='drop' is for tables"):
        from_file(arrays, missing="drop")
    with pytest.raises(DataError, match="unit='users'"):
        from_file(arrays, unit="users")  # type: ignore[arg-type]


class Series:
    """A column of a data frame, as far as anybody needs it."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def to_numpy(self) -> Any:
        return np.array(self._values)


class Frame:
    """A data frame by what it can do: `columns` and `[name]`."""

    columns = tuple(TABLE)

    def __getitem__(self, name: str) -> Series:
        return Series(TABLE[name])


FRAMES: dict[str, Callable[[], Any]] = {
    "frame": Frame,
    "arrow": lambda: pyarrow.table(TABLE),
    "mapping": lambda: TABLE,
    "pandas": lambda: pytest.importorskip("pandas").DataFrame(TABLE),
    "nullable pandas": lambda: pytest.importorskip("pandas").DataFrame(TABLE).convert_dtypes(),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_data_frames_are_read_as_their_file_would_be(frame: Any, tmp_path: Path) -> None:
    from_disk = from_file(write_csv(TABLE, tmp_path), public="repaid", private=("sex",))
    task = from_arrays(frame(), "repaid", ["sex"], users="user")
    assert np.array_equal(task.x, from_disk.x)
    assert np.array_equal(task.public, from_disk.public)
    assert np.array_equal(task.private["sex"], from_disk.private["sex"])
    assert task.users is not None
    assert np.array_equal(task.users, from_disk.users)


def test_gaps_of_nullable_columns_are_missing_and_the_rest_stay_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE).convert_dtypes()
    frame.loc[3, "count"] = pandas.NA
    with pytest.raises(DataError, match="'count' has 1 missing values, first in row=3"):
        from_arrays(frame, "repaid", ["sex"])
    task = from_arrays(frame, "repaid", ["sex"], missing="drop")
    assert task.x[:, 1].tolist() == np.delete(ROWS, 3).tolist()


def test_arrays_lists_and_tensors_are_the_same_task() -> None:
    x = np.random.default_rng(0).random((N, 3, 4))
    public, sex = ROWS % 3, ROWS % 2
    arrays = from_arrays(x, public, {"sex": sex}, users=ROWS // 4, unit="user")
    lists = from_arrays(x.tolist(), public.tolist(), {"sex": sex.tolist()}, users=ROWS // 4)
    tensor = torch.tensor(x, requires_grad=True)
    tensors = from_arrays(tensor, torch.tensor(public), {"sex": torch.tensor(sex)})
    assert arrays.x.shape == (N, 3, 4)
    for other in (lists, tensors):
        assert np.array_equal(other.x, arrays.x)
        assert np.array_equal(other.public, arrays.public)
        assert np.array_equal(other.private["sex"], arrays.private["sex"])


def test_labels_may_be_text_and_quantities_real() -> None:
    x = np.zeros((N, 2))
    task = from_arrays(x, ["cat", "dog"] * 12, {"age": ROWS + 0.5}, bins={"age": 3})
    assert task.class_names == ("cat", "dog")
    assert np.bincount(task.private["age"]).tolist() == [8, 8, 8]
    assert from_arrays(x, ROWS / 7, {"sex": ROWS % 2}).kind is Kind.REGRESSION


GOOD: dict[str, Any] = {"x": np.zeros((N, 2)), "public": ROWS % 3, "private": {"sex": ROWS % 2}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": [[1.0, 2.0], [1.0]]}, "ragged"),
        ({"x": [["a", "b"]] * N}, "numbers in 'x'"),
        ({"x": np.zeros(N)}, r"has shape \(24, 1\)"),
        ({"x": []}, "at least one record"),
        ({"public": ROWS[:-1] % 3}, "to match 'x'"),
        ({"public": [*["a", "b"] * 11, "a", None]}, "'public' has 1 missing"),
        ({"public": [*["a", "b"] * 11, "a", float("nan")]}, "'public' has 1 missing"),
        ({"private": ["sex"]}, "beside an array 'x'"),
        ({"private": {"sex": np.linspace(0, 1, N)}}, "bins="),
        ({"private": {"sex": np.zeros(N, int)}}, "one class only"),
        ({"bins": {"age": 3}}, r"bins=\['age'\]"),
        ({"users": ROWS[:3]}, "'users' of shape"),
        ({"unit": "user"}, "needs the field 'users'"),
        ({"unit": "person"}, "unit='person'"),
        ({"kind": "ranking"}, "kind='ranking'"),
        ({"drop": ("town",)}, "are for tables"),
        ({"x": TABLE, "public": ROWS % 3}, "public as the name of a column.*got ndarray"),
        ({"x": TABLE, "public": "repayed"}, "Did you mean 'repaid'"),
        ({"x": TABLE, "public": "repaid", "private": "sex", "dorp": ()}, r"got \['dorp'\]"),
    ],
)
def test_bad_objects_are_refused_in_words(changes: dict[str, Any], words: str) -> None:
    from_arrays(**GOOD)
    with pytest.raises(InputError, match=words):
        from_arrays(**(GOOD | changes))
