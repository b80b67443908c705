"""What tells members from non-members without any model: an audit where something does is void.

Das, Zhang & Tramèr 2024 found eight published data sets on which such blind attacks beat the best
membership attacks: members and others differed by date or source, and every attack measured that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reticent.attacks.finding import Interval
from reticent.attacks.membership.users import user_scores
from reticent.attacks.spec import Labelled
from reticent.audit.rates import Roc, roc

_FOLDS = 3
_COMPONENTS = 32
_CONFIDENCE = 0.995
"""Per classifier; two are tried, so a sound split is called void once in about 200."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Blind:
    """The stronger blind classifier's cross-validated scores (n,), with their truth and curve.

    Where whole users stand on one side, n counts users, each with the mean of its records' scores:
    a few users on each side differ by chance, and their records are no independent evidence of it.
    """

    classifier: str
    scores: NDArray[np.float64]
    member: NDArray[np.bool_]
    curve: Roc
    interval: Interval

    @property
    def tells(self) -> bool:
        """Whether members and non-members differ without any model."""
        return self.interval[0] > 0.5


def blind_baseline(records: Labelled, member: NDArray[np.bool_], *, seed: int) -> Blind:
    """A linear and a boosted classifier on (principal components of) the records and their labels.

    Folds keep a user's records together.
    """
    x = StandardScaler().fit_transform(records.x.reshape(len(records), -1))
    if x.shape[1] > _COMPONENTS:
        few = min(_COMPONENTS, len(x) - 1)
        x = PCA(few, svd_solver="randomized", random_state=seed).fit_transform(x)
    inputs = np.column_stack([x, np.eye(int(records.y.max()) + 1)[records.y]])
    groups = np.arange(len(x)) if records.users is None else records.users
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    splits = list(folds.split(inputs, member, groups))
    found = []
    for name in ("linear", "boosting"):
        scores = np.empty(len(x))
        for fitted, asked in splits:
            made = _classifier(name, seed).fit(inputs[fitted], member[fitted])
            scores[asked] = made.decision_function(inputs[asked])
        truth = member
        if records.users is not None:
            scores, truth = _by_user(scores, member, records.users)
        curve = roc(scores, truth)
        interval = curve.auc_interval(confidence=_CONFIDENCE)
        found.append(
            Blind(classifier=name, scores=scores, member=truth, curve=curve, interval=interval)
        )
    return max(found, key=lambda each: each.curve.auc)


def _by_user(
    scores: NDArray[np.float64], member: NDArray[np.bool_], users: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean scores and truth per user; per record where a user stands on both sides."""
    _names, share = user_scores(member.astype(np.float64), users, how="mean")
    if not np.isin(share, (0.0, 1.0)).all() or not 2 <= share.sum() <= len(share) - 2:
        return scores, member
    return user_scores(scores, users, how="mean")[1], share == 1


def _classifier(name: str, seed: int) -> HistGradientBoostingClassifier:
    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return HistGradientBoostingClassifier(
        max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
