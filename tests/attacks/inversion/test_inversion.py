"""Model inversion: what a plain model shows of its classes and of a hidden attribute."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

from reticent.attacks.inversion.ascent import ConfidenceAscent, identity_loss, two_columns
from reticent.attacks.inversion.generator import GenerativeInversion, kl_to_standard
from reticent.attacks.inversion.tables import (
    Imputer,
    Population,
    Sensitive,
    TableInversion,
)
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.data.embedded import digits
from reticent.errors import ConfigError, DataError, UnsupportedError

TASK = digits(public="digit")


class Prototypes(nn.Module):
    """Minus the squared distances to the class means."""

    def __init__(self) -> None:
        super().__init__()
        means = np.stack([TASK.x[TASK.public == label].mean(axis=0) for label in range(10)])
        self.means = nn.Parameter(torch.from_numpy(means.reshape(10, -1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x.flatten(1)[:, None] - self.means[None]) ** 2).sum(dim=2)


def prototypes():
    return Victim.of_module(Prototypes().eval(), sample=TASK.x).at_weights()


def test_ascent_on_the_logit_of_a_prototype_model_finds_the_prototype() -> None:
    target = prototypes()
    attack = ConfidenceAscent(objective="logit", total_variation=0.0, blur=0.0)
    images = attack.fit(target, TASK.x).score(target, np.arange(10))
    means = target.model.means.detach().numpy().reshape(images.shape)
    start = ((TASK.x.mean(axis=0)[None] - means) ** 2).sum(axis=(1, 2, 3))
    # The pull of a twentieth towards the middle is all that is left.
    assert (((images - means) ** 2).sum(axis=(1, 2, 3)) < 0.01 * start).all()


def test_ascent_makes_the_model_sure_and_stays_in_the_box() -> None:
    target = prototypes()
    attack = ConfidenceAscent()
    images = attack.fit(target).score(target, np.array([3, 3, 8]))
    assert images.shape == (3, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1
    assert not np.array_equal(images[0], images[1])
    assert target.predict_label(images).tolist() == [3, 3, 8]
    assert np.array_equal(images, attack.fit(target).score(target, np.array([3, 3, 8])))


def test_the_identity_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    wanted = torch.tensor([0, 1])
    identity = nn.Identity()
    assert float(identity_loss(identity, logits, wanted, "logit")) == pytest.approx(-3.0)
    expected = np.log(1 + np.exp(-2.0)) + np.log(2)
    assert float(identity_loss(identity, logits, wanted, "confidence")) == pytest.approx(expected)
    assert two_columns(torch.tensor([[1.5]])).tolist() == [[0.0, 1.5]]


def test_the_divergence_is_that_of_gaussians() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, np.log(4.0)]])
    inner = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
        torch.distributions.Normal(torch.zeros(1, 2), torch.ones(1, 2)),
    )
    assert kl_to_standard(mean, log_variance).item() == pytest.approx(inner.sum().item())


def test_a_generator_of_other_digits_gives_the_pictures_that_a_judge_knows() -> None:
    low = np.flatnonzero(TASK.public < 5)
    x, y = torch.from_numpy(TASK.x[low[:450]]), torch.from_numpy(TASK.public[low[:450]])
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    target = Victim.of_module(model.eval(), sample=TASK.x).at_weights()
    public = TASK.x[TASK.public >= 5]
    wanted = np.repeat(np.arange(5), 4)
    attack = GenerativeInversion(width=200)
    fitted = attack.fit(target, public, seed=1)
    images = fitted.score(target, wanted)
    assert images.shape == (20, 1, 8, 8)
    assert public.min() <= images.min() <= images.max() <= public.max()
    judge = SVC(C=5).fit(TASK.x[low[450:]].reshape(-1, 64), TASK.public[low[450:]])
    assert (judge.predict(images.reshape(20, -1)) == wanted).mean() > 0.6
    assert np.array_equal(images, fitted.score(target, wanted))
    with pytest.raises(DataError, match="50 public"):
        attack.fit(target, public[:10])


def test_ascent_needs_a_network() -> None:
    model = KNeighborsClassifier().fit(TASK.x.reshape(len(TASK.x), -1), TASK.public)
    with pytest.raises(UnsupportedError, match="KNeighbors"):
        ConfidenceAscent().fit(Victim.of_estimator(model, sample=TASK.x).at_weights())


def people(count: int, seed: int) -> Labelled:
    """Three columns, the hidden one a fair coin; the label is the coin nine times in ten."""
    rng = np.random.default_rng(seed)
    coin = rng.integers(2, size=count)
    label = np.where(rng.random(count) < 0.9, coin, 1 - coin)
    x = np.stack([rng.normal(size=count), coin, rng.normal(size=count)], axis=1)
    return Labelled(x=x.astype(np.float32), y=label)


def test_the_table_attack_is_bayes_rule() -> None:
    public, members = people(400, 0), people(200, 1)
    model = LogisticRegression(C=100).fit(public.x, public.y)
    target = Victim.of_estimator(model, sample=public.x).at_scores()
    sensitive = Sensitive.of(public.x, 1)
    population = Population(public=public, sensitive=sensitive)
    scores = TableInversion().fit(target, population).score(target, members)
    share = public.x[:, 1].mean()
    for row in range(20):
        for value, prior in ((0, 1 - share), (1, share)):
            asked = members.x[row : row + 1].copy()
            asked[0, 1] = value
            confidence = model.predict_proba(asked)[0, members.y[row]]
            assert scores[row, value] == pytest.approx(np.log(confidence * prior), rel=1e-5)
    assert target.queries == 2 * len(members)
    assert (scores.argmax(axis=1) == members.x[:, 1]).mean() > 0.8
    blanked = Labelled(x=sensitive.put(members.x, 0), y=members.y)
    again = TableInversion().fit(target, population).score(target, blanked)
    assert np.array_equal(again, scores)


def test_the_imputed_prior_uses_the_rest_of_the_row_and_not_the_label() -> None:
    public, members = people(600, 0), people(300, 1)
    public.x[:, 0] += 3 * public.x[:, 1]
    members.x[:, 0] += 3 * members.x[:, 1]
    sensitive = Sensitive.of(public.x, 1)
    imputer = Imputer.fit(public, sensitive, label=False)
    guessed = imputer.guess(members)
    assert guessed.sum(axis=1) == pytest.approx(np.ones(300))
    assert (guessed.argmax(axis=1) == members.x[:, 1]).mean() > 0.85
    turned = Labelled(x=members.x, y=1 - members.y)
    assert np.array_equal(imputer.guess(turned), guessed)
    even = Victim.of_function(lambda x: np.full((len(x), 2), 0.5), sample=public.x).at_scores()
    attack = TableInversion(prior="imputed").fit(
        even, Population(public=public, sensitive=sensitive)
    )
    assert np.array_equal(attack.score(even, members).argmax(axis=1), guessed.argmax(axis=1))


def test_an_attribute_is_read_from_one_hot_columns() -> None:
    rows = np.array([[9, 1, 0, 0], [8, 0, 0, 1], [7, 0, 1, 0]], np.float32)
    hot = Sensitive(columns=(1, 2, 3), values=np.eye(3, dtype=np.float32))
    assert hot.index(rows).tolist() == [0, 2, 1]
    assert hot.put(rows, 1)[:, 1:].tolist() == [[0, 1, 0]] * 3
    assert hot.without(rows).tolist() == [[9], [8], [7]]
    with pytest.raises(DataError, match="listed"):
        hot.index(np.zeros((1, 4), np.float32))
    with pytest.raises(ConfigError, match="two values"):
        Sensitive.of(rows[:1], 0)
    with pytest.raises(ConfigError, match="shape"):
        Sensitive(columns=(1,), values=np.eye(3, dtype=np.float32))
