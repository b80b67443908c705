"""Handles: each level's methods and no more, queries counted, unfit models refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Handles, Victim
from reticent.errors import BudgetExhaustedError, ConfigError, DataError, UnsupportedError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
OWN = {
    Access.BLIND: {"shape", "classes", "queries", "budget", "access"},
    Access.LABEL: {"predict_label"},
    Access.SCORES: {"predict_scores"},
    Access.SHADOW: {"recipe", "architecture"},
    Access.INTERNALS: {"gradients", "features", "transcript"},
    Access.WEIGHTS: {"weights", "model"},
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("level", list(Access))
def test_a_handle_has_the_methods_of_its_level_and_of_those_before_only(level: Access) -> None:
    public = {name for name in dir(Handles[level]) if not name.startswith("_")}
    assert public == set().union(*(OWN[below] for below in Access if below <= level))


@pytest.mark.slow
def test_a_peek_above_the_level_is_a_type_error(tmp_path: Path) -> None:
    code = (
        "from reticent.attacks.target import LabelTarget, ScoreTarget\n"
        "import numpy as np\n"
        "def honest(target: ScoreTarget) -> None:\n"
        "    target.predict_scores(np.zeros((1, 2)))\n"
        "def peek(target: LabelTarget) -> None:\n"
        "    target.predict_scores(np.zeros((1, 2)))\n"
        "def give(target: LabelTarget) -> None:\n"
        "    honest(target)\n"
    )
    (tmp_path / "peek.py").write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "peek.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    for said in (":6: error", "predict_scores", ":8: error", '"ScoreTarget"'):
        assert said in ran.stdout, ran.stdout + ran.stderr
    assert ":4: error" not in ran.stdout


def test_scores_are_log_probabilities_and_queries_are_counted_up_to_the_budget() -> None:
    model = network()
    handle = Victim.of_module(model, sample=X).at_scores(budget=50)
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.from_numpy(X)).double(), dim=1).numpy()
    assert np.allclose(handle.predict_scores(X), expected, atol=1e-12)
    assert handle.queries == 40
    with pytest.raises(BudgetExhaustedError, match="budget=50"):
        handle.predict_label(X)
    assert handle.queries == 40
    assert (handle.predict_label(X[:10]) == expected[:10].argmax(axis=1)).all()
    assert handle.queries == 50


def test_one_logit_stands_for_two_classes() -> None:
    model = nn.Sequential(nn.Linear(4, 1)).eval()
    scores = Victim.of_module(model, sample=X).at_scores().predict_scores(X)
    with torch.no_grad():
        positive = torch.sigmoid(model(torch.from_numpy(X)).double()).numpy()[:, 0]
    assert np.allclose(np.exp(scores[:, 1]), positive)


def test_gradients_are_those_of_the_mean_loss() -> None:
    model = network()
    found = Victim.of_module(model, sample=X).at_internals().gradients(X, Y)
    nn.functional.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        assert np.allclose(found[name], value.grad.numpy(), atol=1e-7)


def test_features_are_a_named_layers_output() -> None:
    model = network()
    handle = Victim.of_module(model, sample=X).at_internals()
    assert np.allclose(handle.features(X, "0"), model[0](torch.from_numpy(X)).detach().numpy())
    with pytest.raises(ConfigError, match="layer='nine'"):
        handle.features(X, "nine")


def test_an_estimator_answers_scores_or_only_labels() -> None:
    graded = LogisticRegression().fit(X, Y)
    handle = Victim.of_estimator(graded, sample=X).at_scores()
    assert np.allclose(np.exp(handle.predict_scores(X)), graded.predict_proba(X))
    blunt = Victim.of_estimator(LinearSVC().fit(X, Y), sample=X)
    assert (blunt.at_label().predict_label(X) == blunt.model.predict(X)).all()
    with pytest.raises(UnsupportedError, match="predict_proba"):
        blunt.at_scores().predict_scores(X)


def test_unfit_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.eval\(\)"):
        Victim.of_module(network().train(), sample=X)
    softmax = nn.Sequential(network(), nn.Softmax(dim=1)).eval()
    with pytest.raises(ConfigError, match="outputs='probabilities'"):
        Victim.of_module(softmax, sample=X)
    with pytest.raises(ConfigError, match="outputs='logits'"):
        Victim.of_module(network(), sample=X, outputs="probabilities")
    with pytest.raises(ConfigError, match="different ones"):
        Victim.of_function(lambda x: RNG.dirichlet(np.ones(3), len(x)), sample=X)
    with pytest.raises(ConfigError, match="NaN"):
        Victim.of_function(lambda x: np.full((len(x), 3), np.nan), sample=X, outputs="logits")
    with pytest.raises(ConfigError, match="Fit it first"):
        Victim.of_estimator(LogisticRegression(), sample=X)
    with pytest.raises(ConfigError, match="class indices"):
        Victim.of_estimator(LogisticRegression().fit(X, Y + 4), sample=X)
    victim = Victim.of_module(network(), sample=X)
    with pytest.raises(DataError, match="shape"):
        victim.at_label().predict_label(X[:, :3])
    with pytest.raises(ConfigError, match="recipe=None"):
        _ = victim.at_shadow().recipe


def test_access_levels_are_parsed_from_what_users_write() -> None:
    assert [Access.parse(text) for text in ("L2", "l5", "3", "weights")] == [2, 5, 3, 5]
    assert str(Access.SHADOW) == "L3 (shadow)"
    for text in ("L6", "", "root", "-1"):
        with pytest.raises(ConfigError, match="access="):
            Access.parse(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": X[:0]}, "shape"),
        ({"y": Y[:-1]}, "y as integers"),
        ({"y": Y.astype(float)}, "float64"),
        ({"y": Y - 1}, "0..C-1"),
        ({"x": np.where(X[3, 1] == X, np.nan, X)}, "NaN"),
        ({"users": Y[:3]}, "users"),
    ],
)
def test_labelled_records_are_checked(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Labelled(**({"x": X, "y": Y} | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"noise_multiplier": 1.0}, "clip_norm"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"keep": "best"}, "held_out"),
    ],
)
def test_recipes_are_checked(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainingRecipe(**({"size": 10} | change))


def test_the_digest_of_a_recipe_tells_every_field_apart() -> None:
    base = TrainingRecipe(size=10)
    others = [TrainingRecipe(size=11), TrainingRecipe(size=10, momentum=0.5)]
    assert len({base.digest(), *(other.digest() for other in others)}) == 3
    assert base.digest() == TrainingRecipe(size=10).digest()


def test_probabilities_rounded_to_two_decimals_are_probabilities() -> None:
    """A service that rounds is a service still; what it answers is made to sum to one again."""
    rng = np.random.default_rng(0)

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.round(np.random.default_rng(1).dirichlet(np.ones(10), len(x)), 2)

    x = rng.normal(size=(40, 3)).astype(np.float32)
    target = Victim.of_function(rounded, sample=x).at_scores()
    assert np.allclose(np.exp(target.predict_scores(x)).sum(axis=1), 1)


def test_joined_records_keep_their_order_and_lose_users_that_not_all_have() -> None:
    first = Labelled(x=np.zeros((2, 3), np.float32), y=np.array([0, 1]), users=np.array([4, 5]))
    second = Labelled(x=np.ones((1, 3), np.float32), y=np.array([2]), users=np.array([6]))
    both = Labelled.joined((first, second))
    assert both.y.tolist() == [0, 1, 2]
    assert both.users is not None
    assert both.users.tolist() == [4, 5, 6]
    nameless = Labelled(x=second.x, y=second.y)
    assert Labelled.joined((first, nameless)).users is None
    with pytest.raises(DataError, match="of one shape"):
        Labelled.joined((first, Labelled(x=np.ones((1, 2), np.float32), y=np.array([0]))))
