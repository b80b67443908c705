"""Model inversion on tables: a person's hidden attribute from the rest of the row and its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from reticent.attacks.spec import Access, AttackSpec, Labelled
from reticent.attacks.target import ScoreTarget
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar

_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Sensitive:
    """Where the attribute stands in a row: `columns` (w,), and its k `values` (k, w) there.

    One column for a coded attribute, several for a one-hot one. Raises `ConfigError` for values
    of another width or fewer than two of them.
    """

    columns: tuple[int, ...]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.columns):
            raise ConfigError(
                f"Expected values of shape (values, {len(self.columns)}), got "
                f"shape={self.values.shape}."
            )
        if len(self.values) < 2:
            raise ConfigError("Expected two values of the attribute or more, got one.")

    @classmethod
    def of(cls, x: NDArray[np.float32], *columns: int) -> Sensitive:
        """The attribute in these columns, with every value that occurs in rows x (n, d)."""
        return cls(columns=columns, values=np.unique(x[:, list(columns)], axis=0))

    def index(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Which value each row (n, d) has, (n,). Raises `DataError` for a value not listed."""
        same = (x[:, None, list(self.columns)] == self.values[None]).all(axis=2)
        if not same.any(axis=1).all():
            raise DataError("Expected listed values of the attribute only, got another one.")
        return np.asarray(same.argmax(axis=1), dtype=np.int64)

    def put(self, x: NDArray[np.float32], value: int) -> NDArray[np.float32]:
        """Rows (n, d) with the attribute set to one value."""
        made = x.copy()
        made[:, list(self.columns)] = self.values[value]
        return made

    def without(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows (n, d - w) without the attribute."""
        return np.delete(x, list(self.columns), axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """What the adversary knows of people in general: public rows, and where the attribute is."""

    public: Labelled
    sensitive: Sensitive


@dataclass(frozen=True, kw_only=True)
class TableInversion:
    """The value s that maximises P(label | row with s) * prior(s) (Fredrikson et al. 2014, 2015).

    `prior` "marginal" is how often a value occurs, as in the papers; "imputed" is what a model of
    public rows says of s given the rest of this row, which no serious adversary would forgo.
    """

    prior: Literal["marginal", "imputed"] = "marginal"

    spec = AttackSpec(
        name="model inversion, table",
        pillar=Pillar.TRAINING_DATA,
        goal="a hidden attribute of a person whose other attributes and label are known",
        access=Access.SCORES,
        auxiliary="the other attributes, the label, public rows of the population",
        reference="Fredrikson et al. 2014, section 3; Fredrikson, Jha and Ristenpart 2015, Alg. 2",
    )

    def fit(self, target: ScoreTarget, auxiliary: Population, *, seed: int = 0) -> FittedTable:
        """Learns the prior from public rows."""
        sensitive, public = auxiliary.sensitive, auxiliary.public
        known = sensitive.index(public.x)
        share = np.bincount(known, minlength=len(sensitive.values)) / len(known)
        model = None
        if self.prior == "imputed":
            model = Imputer.fit(public, sensitive, label=False, seed=seed)
        return FittedTable(sensitive=sensitive, share=share, imputer=model)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTable:
    """The attack with its prior learnt."""

    sensitive: Sensitive
    share: NDArray[np.float64]
    imputer: Imputer | None

    def score(self, target: ScoreTarget, candidates: Labelled) -> NDArray[np.float64]:
        """Log-scores (n, k) of each value for each row; what the rows say there is not read."""
        rows = np.arange(len(candidates))
        fits = np.stack(
            [
                target.predict_scores(self.sensitive.put(candidates.x, value))[rows, candidates.y]
                for value in range(len(self.share))
            ],
            axis=1,
        )
        prior = self.share[None] if self.imputer is None else self.imputer.guess(candidates)
        return np.asarray(fits + np.log(np.maximum(prior, _LEAST)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Imputer:
    """The attribute guessed from the rest of a row, without the target: gradient-boosted trees."""

    model: HistGradientBoostingClassifier
    sensitive: Sensitive
    classes: int
    label: bool

    @classmethod
    def fit(cls, public: Labelled, sensitive: Sensitive, *, label: bool, seed: int = 0) -> Imputer:
        """Learns from public rows, with the label among the inputs where `label` says so.

        Raises `DataError` where the public rows hold one value of the attribute only.
        """
        known = sensitive.index(public.x)
        if len(np.unique(known)) < 2:
            raise DataError("Expected two values of the attribute or more in the public rows.")
        made = cls(
            model=HistGradientBoostingClassifier(
                max_iter=100, early_stopping=True, random_state=seed
            ),
            sensitive=sensitive,
            classes=int(public.y.max()) + 1,
            label=label,
        )
        made.model.fit(made._inputs(public), known)
        return made

    def guess(self, rows: Labelled) -> NDArray[np.float64]:
        """Probabilities (n, k) of each value."""
        found = np.zeros((len(rows), len(self.sensitive.values)))
        found[:, self.model.classes_] = self.model.predict_proba(self._inputs(rows))
        return found

    def _inputs(self, rows: Labelled) -> NDArray[np.float32]:
        rest = self.sensitive.without(rows.x)
        if not self.label:
            return rest
        seen = (rows.y[:, None] == np.arange(self.classes)).astype(np.float32)
        return np.hstack([rest, seen])
