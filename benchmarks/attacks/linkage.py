"""Linkage, released tables, shares of the training set: strength and CPU time.

Anonymeter is compared where RETICENT_ANONYMETER names a Python interpreter that has it: it pins
an older numpy, so it needs an environment of its own. Its risks and ours must agree within their
intervals; `agree` says so. ART likewise where RETICENT_ART does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row, row
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from reticent.attacks.attribute.imputation import Sensitive
from reticent.attacks.linkage.ratings import Ratings, synthetic_ratings
from reticent.attacks.linkage.scoreboard import Scoreboard
from reticent.attacks.release import singling_out
from reticent.attacks.release.inference import nearest_guess
from reticent.attacks.release.linkability import linked
from reticent.attacks.release.table import Columns, Encoding, take
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import train_models
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.linkage import audit_linkage, audit_record_linkage, glimpse
from reticent.audit.output_attributes import People, audit_output_attributes
from reticent.audit.property_inference import audit_property
from reticent.audit.risk import Risk, risk_beyond
from reticent.data.embedded import adult, adult_columns

Table = dict[str, NDArray[Any]]
WIDTH = 3
HIDDEN = "occupation"
PARTS = (
    ["age", "education-num", "marital-status", "occupation"],
    ["relationship", "race", "sex", "hours-per-week", "native-country"],
)


def rows(*, quick: bool) -> Iterable[Row]:
    """All figures of this case."""
    yield from _ratings(quick)
    yield from _tables(quick)
    yield from _records()
    yield from _shares(quick)
    yield from _attributes(quick)
    yield from _overfitted(quick)


def _ratings(quick: bool) -> Iterable[Row]:
    users, items, targets = (10_000, 2_000, 100) if quick else (100_000, 5_000, 300)
    released = synthetic_ratings(users, items, seed=0)
    start = time.process_time()
    board = Scoreboard(released)
    index = time.process_time() - start
    aux = glimpse(released, np.arange(targets), known=8, wrong=2)
    board.match(aux.take(np.arange(5)))
    start = time.process_time()
    links = board.match(aux)
    ours = time.process_time() - start
    few = max(5, targets // 15)
    start = time.process_time()
    plain = _by_columns(released, aux.take(np.arange(few)))
    rival = (time.process_time() - start) * targets / few
    same = bool(np.array_equal(plain, links.candidates[:few, 0]))
    case = f"SYNTHETIC ratings, {users} users, {len(released.items)} ratings"
    yield row(
        case, "targets linked per CPU second", targets / ours, targets / rival,
        "dense columns (numpy)", higher=True, index_seconds=round(index, 3), same_links=same,
    )  # fmt: skip
    for known, wrong, off in ((8, 2, 14), (2, 0, 3)):
        (found,) = audit_linkage(
            released, released, np.arange(users), known=known, wrong=wrong, day_error=off,
            targets=targets,
        )  # fmt: skip
        yield row(
            case, f"share linked, {known} ratings ({wrong} wrong), {off} days", found.value, None,
            "", higher=True, ci=[round(end, 4) for end in found.ci], n=found.n,
            claimed_without_own_row=found.details["negative control"]["claimed"],
        )  # fmt: skip


def _by_columns(released: Ratings, known: Ratings) -> NDArray[np.int64]:
    """The best user by the paper's formula on dense columns of a scipy matrix."""
    from scipy.sparse import csr_array

    def matrix(values: NDArray[Any]) -> Any:
        shape = (len(released), released.width)
        return csr_array((values, released.items, released.starts), shape=shape).tocsc()

    assert released.days is not None
    assert known.days is not None
    ratings, days = matrix(released.values), matrix(released.days + 1.0)
    support = released.support()
    best = []
    for target in range(len(known)):
        span = slice(known.starts[target], known.starts[target + 1])
        items = known.items[span]
        value, day = ratings[:, items].toarray(), days[:, items].toarray()
        fit = np.exp(-np.abs(value - known.values[span]) / 1.5)
        fit += np.exp(-np.abs(day - 1 - known.days[span]) / 30)
        weights = 1 / np.log(np.maximum(support[items], 2))
        best.append(int((np.where(value > 0, fit, 0) @ weights).argmax()))
    return np.array(best)


def _adult() -> Table:
    return {name: values for name, values in adult_columns().items() if name != "part"}


def _tables(quick: bool) -> Iterable[Row]:
    size, attacks = (2_000, 200) if quick else (5_000, 500)
    table = _adult()
    order = np.random.default_rng(0).permutation(len(table["age"]))
    original, control, fresh = (
        take(table, order[part * size : (part + 1) * size]) for part in range(3)
    )
    third = {
        name: np.concatenate([original[name][: size // 3], fresh[name][: size - size // 3]])
        for name in original
    }
    releases = {"original": original, "a third of it": third, "independent": fresh}
    for name, release in releases.items():
        ours = _ours(release, original, control, attacks)
        theirs = _theirs(release, original, control, attacks)
        for attack, (risk, seconds) in ours.items():
            case = f"adult {size}, release: {name}"
            other = theirs.get(attack)
            more: dict[str, Any] = {
                "ci": [round(end, 4) for end in risk.risk_ci],
                "attacks": risk.n,
            }
            if other is not None:
                low, high = other["ci"]
                more["rival_ci"] = [round(low, 4), round(high, 4)]
                more["agree"] = bool(risk.risk_ci[0] <= high and low <= risk.risk_ci[1])
            made = row(
                case, f"{attack}: risk", risk.risk, None if other is None else other["risk"],
                "anonymeter 1.1.0", higher=True, **more,
            )  # fmt: skip
            # A risk has no better end: only agreement counts.
            yield {**made, "ratio": None}
            yield row(
                case, f"{attack}: CPU seconds", seconds,
                None if other is None else other["seconds"], "anonymeter 1.1.0",
            )  # fmt: skip


def _records() -> Iterable[Row]:
    """Adult joined to a register by eight columns, as it is and recoded."""
    table = _adult()
    names = (
        "age", "workclass", "education-num", "marital-status", "occupation", "race", "sex",
        "native-country",
    )  # fmt: skip

    def recode(given: Columns) -> Columns:
        """Ages in bands of ten years, education in three, work and country left out."""
        made = {name: np.asarray(values) for name, values in given.items()}
        for name in ("workclass", "occupation", "native-country", "marital-status"):
            made[name] = np.repeat("*", len(made["age"]))
        return {**made, "age": made["age"] // 10, "education-num": made["education-num"] // 6}

    everybody, income = np.arange(len(table["age"])), "income"
    for label, release, generalise in (
        ("as it is", table, None),
        ("recoded", recode(table), recode),
    ):
        start = time.process_time()
        for one in audit_record_linkage(
            release, table, everybody, quasi_identifiers=names, secret=income,
            generalise=generalise, undefended=table, people=2_000,
        ):  # fmt: skip
            yield row(
                f"adult, {len(everybody)} rows {label}, 8 quasi-identifiers",
                f"{one.attack}: {one.metric}", one.value, one.floor, "without linkage",
                higher=True, ci=[round(end, 4) for end in one.ci], n=one.n,
                unique_rows=one.details.get("unique rows"),
                smallest_class=one.details.get("smallest class"),
                seconds=round(time.process_time() - start, 2),
            )  # fmt: skip


def _shares(quick: bool) -> Iterable[Row]:
    """Property inference on Adult: how many women are in the training set of an income model."""
    size, shadows, targets = (500, 24, 16) if quick else (1_000, 64, 48)
    data, women, _race = _people_of_adult(16 * size)
    recipe = TrainingRecipe(size=size, epochs=10, batch_size=64, learning_rate=3e-3)
    victim = _victim(recipe, data, np.arange(size))
    for shares in ((0.2, 0.5), (0.3, 0.35)):
        for access in (Access.SHADOW, Access.WEIGHTS):
            start = time.process_time()
            (found,) = audit_property(
                victim, data, women, name="women", shares=shares, access=access,
                shadows=shadows, targets=targets,
            )  # fmt: skip
            yield row(
                f"adult, MLP 80-32-2 on {size} people, women {shares[0]:.0%} or {shares[1]:.0%}",
                f"hypotheses told right, {access}", found.value, found.floor, "chance",
                higher=True, ci=[round(end, 3) for end in found.ci], n=found.n,
                models=2 * (shadows + targets), chosen=found.details["chosen meta-classifier"],
                seconds=round(time.process_time() - start, 2),
            )  # fmt: skip


def _attributes(quick: bool) -> Iterable[Row]:
    """Attribute inference on Adult: an overfitted income model whose input holds the attribute."""
    size = 600 if quick else 1_500
    data, women, white = _people_of_adult(4 * size)
    recipe = TrainingRecipe(size=size, epochs=60, batch_size=64, learning_rate=3e-3)
    for name, values in (("sex", women), ("race (White or not)", white)):
        held = Labelled(x=np.column_stack([data.x, values]).astype(np.float32), y=data.y)
        people = [
            People(records=held.take(rows), attribute=values[rows].astype(np.int64))
            for rows in np.split(np.arange(4 * size), [size, 2 * size])
        ]
        victim = _victim(recipe, held, np.arange(size))
        sensitive = Sensitive(
            columns=(data.x.shape[1],), values=np.array([[0], [1]], dtype=np.float32)
        )
        start = time.process_time()
        found = audit_output_attributes(
            victim, *people, name=name, sensitive=sensitive, access=Access.SHADOW
        )
        seconds = time.process_time() - start
        for one in found:
            alone = one.details.get("without own records", {}).get("confidence", {})
            yield row(
                f"adult, MLP 81-32-2 on {size} people, 60 epochs", f"{one.attack}: {one.target}",
                one.value, one.floor,
                "non-members" if "beyond others" in one.attack else "imputation", higher=True,
                excess_ci=[round(end, 3) for end in one.excess_ci], n=one.n,
                by_confidence_alone=alone.get("value"), seconds_all=round(seconds, 2),
            )  # fmt: skip


def _overfitted(quick: bool) -> Iterable[Row]:
    """A forest that remembers its members: our attackers beside ART's, on the same arrays."""
    size = 500 if quick else 1_500
    parts = [_noisy_people(size, seed) for seed in (20, 21, 22)]
    forest = RandomForestClassifier(60, bootstrap=False, random_state=0)
    forest.fit(parts[0].records.x, parts[0].records.y)
    victim = Victim.of_estimator(
        forest, sample=parts[0].records.x, recipe=TrainingRecipe(size=size)
    )
    bit = Sensitive(columns=(0,), values=np.array([[0], [1]], dtype=np.float32))
    art = _art(dict(zip(("members", "others", "own"), parts, strict=True)))
    case = f"SYNTHETIC people, {size} a group, forest that fits its members exactly"
    # ART's attackers see the label that the true record got: the second way is the same look.
    for access, observed in (
        (Access.SCORES, False),
        (Access.LABEL, True),
        (Access.SHADOW, False),
    ):
        start = time.process_time()
        found = audit_output_attributes(
            victim, *parts, sensitive=bit, access=access, observed=observed
        )
        seconds = time.process_time() - start
        for one in found[:2]:
            group = "members" if one.target.endswith("of members") else "others"
            yield row(
                case,
                f"attribute of {group}, {access}{', answer seen' * observed}: balanced accuracy",
                one.value,
                max((reached[group] for reached in art.values()), default=None),
                "best of ART 1.20.1's rf, gb, lr", higher=True, imputation=round(one.floor, 3),
                excess_ci=[round(end, 3) for end in one.excess_ci],
                by_confidence_alone=one.details["without own records"]["confidence"]["value"],
                seconds_with_controls=round(seconds, 2),
                rival_seconds=round(sum(reached["seconds"] for reached in art.values()), 2),
            )  # fmt: skip


def _noisy_people(size: int, seed: int) -> People:
    """SYNTHETIC: an attribute, five numbers of which one hints at it, a label it sways a little."""
    rng = np.random.default_rng(seed)
    attribute = rng.integers(2, size=size)
    x = np.column_stack([attribute, rng.normal(size=(size, 5))])
    x[:, 1] += 0.5 * attribute
    score = x[:, 2] + 0.6 * (attribute - 0.5) + 0.8 * rng.normal(size=size)
    records = Labelled(x=x.astype(np.float32), y=(score > 0).astype(np.int64))
    return People(records=records, attribute=attribute)


def _art(parts: Mapping[str, People]) -> dict[str, dict[str, float]]:
    """What ART reaches in the environment that RETICENT_ART names; nothing where there is none."""
    interpreter = os.environ.get("RETICENT_ART")
    if not interpreter:
        return {}
    with tempfile.TemporaryDirectory() as name:
        arrays = {label: part.records.x for label, part in parts.items()}
        arrays |= {f"{label}_y": part.records.y for label, part in parts.items()}
        np.savez(Path(name) / "arrays.npz", **arrays)
        ran = subprocess.run(
            [
                interpreter,
                str(Path(__file__).with_name("art_attributes_peer.py")),
                str(Path(name) / "arrays.npz"),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            check=False,
        )
    if ran.returncode != 0:
        print(ran.stderr[-2000:], file=sys.stderr)
        return {}
    found: dict[str, dict[str, float]] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def _people_of_adult(count: int) -> tuple[Labelled, NDArray[np.bool_], NDArray[np.bool_]]:
    """`count` people drawn at random, columns standardised; who is a woman; who is White."""
    task = adult(race="two")
    rows = np.random.default_rng(1).permutation(len(task.x))[:count]
    x = task.x[rows]
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    women = task.private["sex"][rows] == task.attribute_names["sex"].index("Female")
    white = task.private["race"][rows] == task.attribute_names["race"].index("White")
    return Labelled(x=x.astype(np.float32), y=task.public[rows].astype(np.int64)), women, white


def _victim(recipe: TrainingRecipe, data: Labelled, rows: NDArray[np.int64]) -> Victim:
    net = nn.Sequential(nn.Linear(data.x.shape[1], 32), nn.ReLU(), nn.Linear(32, 2))
    mask = np.isin(np.arange(len(data)), rows)[None]
    model = next(iter(train_models(net, recipe, data, mask, seed=5))).eval()
    return Victim.of_module(model, sample=data.x[:8], recipe=recipe, template=net)


def _ours(
    release: Columns, original: Columns, control: Columns, attacks: int
) -> dict[str, tuple[Risk, float]]:
    """Risk and CPU seconds of each attack, encoding of the tables included."""
    known = [name for name in release if name != HIDDEN]

    def single(rng: np.random.Generator) -> Risk:
        encoding = Encoding.of(release)
        predicates = singling_out.multivariate(
            encoding.codes(release), encoding, count=attacks, width=WIDTH, rng=rng
        )
        hits = [predicates.matches(encoding.codes(side)) == 1 for side in (original, control)]
        return risk_beyond(hits[0], hits[1])

    def link(rng: np.random.Generator) -> Risk:
        encoding = Encoding.of(release)
        hits = [
            linked(release, side, encoding, parts=(PARTS[0], PARTS[1]), neighbours=1, rng=rng)
            for side in _people(original, control, attacks, rng)
        ]
        return risk_beyond(hits[0], hits[1])

    def infer(rng: np.random.Generator) -> Risk:
        encoding = Encoding.of(release)
        hits = [
            nearest_guess(release, side, encoding, secret=HIDDEN, known=known, rng=rng)
            == encoding.codes(side, (HIDDEN,))[:, 0]
            for side in _people(original, control, attacks, rng)
        ]
        return risk_beyond(hits[0], hits[1])

    runs: Mapping[str, Callable[[np.random.Generator], Risk]] = {
        "singling out": single,
        "linkability": link,
        "inference": infer,
    }
    found = {}
    for name, run in runs.items():
        run(np.random.default_rng(1))
        start = time.process_time()
        risk = run(np.random.default_rng(2))
        found[name] = (risk, time.process_time() - start)
    return found


def _people(
    original: Columns, control: Columns, attacks: int, rng: np.random.Generator
) -> list[Table]:
    return [take(side, rng.permutation(len(side["age"]))[:attacks]) for side in (original, control)]


def _theirs(
    release: Columns, original: Columns, control: Columns, attacks: int
) -> dict[str, dict[str, Any]]:
    """What anonymeter says in its own environment; nothing where there is none."""
    interpreter = os.environ.get("RETICENT_ANONYMETER")
    if not interpreter:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, table in (("release", release), ("original", original), ("control", control)):
            np.savez(folder / f"{label}.npz", **table)
        question = {
            "attacks": attacks,
            "width": WIDTH,
            "parts": PARTS,
            "secret": HIDDEN,
            "known": [column for column in release if column != HIDDEN],
        }
        (folder / "question.json").write_text(json.dumps(question), encoding="utf-8")
        one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "NUMBA", "OPENBLAS", "MKL")}
        ran = subprocess.run(
            [interpreter, str(Path(__file__).with_name("anonymeter_peer.py")), name],
            capture_output=True,
            text=True,
            env={**os.environ, **one, "PYTHONPATH": ""},
            check=False,
        )
    if ran.returncode != 0:
        print(ran.stderr[-2000:], file=sys.stderr)
        return {}
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found
