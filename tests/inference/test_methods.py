"""Each hardening method runs, keeps an easy task, and sends no more than it says."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reticent.data.answers import Answers, utility
from reticent.data.task import Kind, Records, Task
from reticent.errors import ConfigError, UnsupportedError
from reticent.guarantee import Empirical, InformationBound
from reticent.inference.split.halves import STYLES, neck
from reticent.inference.split.harden import Hardened, harden
from reticent.inference.split.methods import METHODS
from reticent.inference.split.objectives import (
    Adversary,
    CenterLoss,
    DistanceCorrelation,
    Siamese,
    SupervisedContrastive,
    simplex,
)
from reticent.inference.split.problem import Problem
from reticent.inference.split.prototype import SEPARATION, Prototypes
from reticent.inference.split.release import Code, Noisy, nearest
from reticent.models.networks import build
from reticent.training.plain import Plan, fit, forward

torch.set_num_threads(1)
CLASSES, PEOPLE = 3, 4


@cache
def series(kind: Kind = Kind.CLASSIFICATION) -> Task:
    """SYNTHETIC (n, 2, 16): the frequency is public, the offset is the person."""
    rng = np.random.default_rng(5)
    n = 480
    person = rng.integers(PEOPLE, size=n)
    time = np.arange(16) / 16
    if kind is Kind.REGRESSION:
        public: Any = rng.uniform(0, 4, size=n).astype(np.float32)
        wave = (public - 2)[:, None] * np.sin(2 * np.pi * time)
    else:
        public = rng.integers(CLASSES if kind is Kind.CLASSIFICATION else 2, size=n)
        wave = np.sin(2 * np.pi * (1 + 2 * public[:, None]) * time)
    x = np.stack([wave, np.broadcast_to(person[:, None] - 1.5, wave.shape)], axis=1)
    x = x + 0.1 * rng.standard_normal(x.shape)
    return Task(
        name="waves",
        x=x.astype(np.float32),
        public=public,
        private={"person": person},
        users=person,
        kind=kind,
        synthetic=True,
    )


@cache
def deployed(
    kind: Kind = Kind.CLASSIFICATION,
) -> tuple[nn.Module, Records, Records, Records, Answers]:
    made = series(kind)
    train, validation, test = (
        made.take(np.arange(*span)) for span in ((0, 200), (200, 280), (280, 480))
    )
    outputs = 1 if kind is Kind.REGRESSION else made.classes
    torch.manual_seed(1)
    model = build(
        "convnet1d",
        shape=made.x.shape[1:],
        outputs=outputs,
        x=train.x,
        y=train.public,
        options={"widths": (8, 16), "hidden": (16,)},
    )
    plan = Plan(epochs=12, batch_size=32, learning_rate=3e-3)
    model = fit(model, train, validation, kind=kind, plan=plan).model
    answers = Answers.of(kind, train.public, classes=made.classes)
    return model, train, validation, test, answers


@cache
def hardened(method: str, cut: str = "conv1", kind: Kind = Kind.CLASSIFICATION) -> Hardened:
    return _harden(method, cut, kind)


def _harden(method: str, cut: str, kind: Kind = Kind.CLASSIFICATION, **settings: Any) -> Hardened:
    model, train, validation, _, answers = deployed(kind)
    return harden(
        model,
        train=train,
        validation=validation,
        answers=answers,
        method=method,
        cut=cut,
        **{"epochs": 4, "batch_size": 32, "max_client_share": 1.0, **settings},
    )


def loss_of(made: Hardened, kind: Kind = Kind.CLASSIFICATION) -> float:
    model, _, _, test, _ = deployed(kind)
    base = utility(kind, forward(model, torch.from_numpy(test.x)).numpy(), test.public)
    assert base > 0.9, "the task was meant to be easy"
    return base - utility(kind, made.halves.predict(test.x), test.public)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("cut", ["conv1", "dense1"])
def test_every_method_keeps_an_easy_task(method: str, cut: str) -> None:
    assert loss_of(hardened(method, cut)) < 0.05


@pytest.mark.parametrize("method", ["adapter_code", "prototype_code"])
def test_a_code_is_a_function_of_the_label_and_the_reply_too(method: str) -> None:
    made = hardened(method)
    release = made.halves.release
    assert isinstance(release, Code)
    assert release.alphabet == CLASSES
    _, _, _, test, _ = deployed()
    codes = release.nearest(made.halves.features(test.x))
    outputs = made.halves.predict(test.x)
    assert np.array_equal(outputs.argmax(axis=1), made.halves.label(test.x))
    assert len(np.unique(np.column_stack([codes, outputs]), axis=0)) <= CLASSES
    (claim,) = made.guarantees
    assert isinstance(claim.strength, InformationBound)
    assert claim.strength.nats == 0
    assert claim.strength.total_variation == 0
    assert claim.strength.total_variation_after(10**6) == 0
    assert made.costs.request_bytes == 1


def test_more_codes_than_classes_are_paid_for() -> None:
    made = _harden("prototype_code", "dense1", codes=2 * CLASSES)
    release = made.halves.release
    assert isinstance(release, Code)
    assert release.alphabet == 2 * CLASSES
    assert np.bincount(release.labels).tolist() == [2, 2, 2]
    strength = made.guarantees[0].strength
    assert isinstance(strength, InformationBound)
    assert strength.nats == pytest.approx(math.log(2))
    assert strength.total_variation == pytest.approx(0.5)
    assert strength.nats_after(3) == pytest.approx(3 * math.log(2))
    assert loss_of(made) < 0.05


@pytest.mark.parametrize("codes", [2, 4])
def test_codes_that_do_not_divide_among_the_classes_are_refused(codes: int) -> None:
    with pytest.raises(ConfigError, match="multiple of the 3 classes"):
        _harden("adapter_code", "dense1", codes=codes, epochs=1)


def test_adapter_code_leaves_the_deployed_weights_alone() -> None:
    model, _, _, _, _ = deployed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = hardened("adapter_code")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    kept = dict(model.get_submodule("conv1").state_dict())
    first = dict(made.halves.encoder.state_dict())
    for name, value in kept.items():
        assert torch.equal(first[f"0.conv1.{name}"], value)


def test_the_held_out_part_has_no_say_in_training() -> None:
    """Certificates and cut choices rest on it, so it must not have chosen the weights."""
    model, train, validation, _, answers = deployed()
    shuffled = Records(
        x=validation.x[::-1].copy() * 0, public=validation.public, private={}, users=None
    )
    for method in ("adapter_code", "center_noise", "ceb"):
        first, other = (
            harden(
                model,
                train=train,
                validation=held,
                answers=answers,
                method=method,
                cut="dense1",
                epochs=1,
            )
            for held in (validation, shuffled)
        )
        for a, b in zip(
            first.halves.encoder.parameters(), other.halves.encoder.parameters(), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("cut", ["conv1", "dense1"])
def test_center_noise_holds_every_input_within_its_radius(cut: str) -> None:
    made = hardened("center_noise", cut)
    release = made.halves.release
    assert isinstance(release, Noisy)
    assert release.radius is not None
    assert release.prototypes is not None
    hostile = 100 * np.random.default_rng(0).standard_normal((50, 2, 16)).astype(np.float32)
    features = made.halves.features(hostile)
    away = np.linalg.norm(features[:, None] - release.prototypes[None], axis=2).min(axis=1)
    assert away.max() <= release.radius
    strength = made.guarantees[0].strength
    assert isinstance(strength, InformationBound)
    assert strength.worst_case
    assert strength.total_variation_after(8) == pytest.approx(0.10, abs=1e-6)


def test_center_noise_answers_as_the_nearest_prototype_says() -> None:
    """The nearest prototype is Bayes' answer to Gaussian noise: the head must not do worse."""
    made = hardened("center_noise", "conv1")
    release = made.halves.release
    assert isinstance(release, Noisy)
    assert release.prototypes is not None
    truth = np.arange(3000) % CLASSES
    noise = np.random.default_rng(0).standard_normal((3000, 2)).astype(np.float32)
    for scale, disagreement in ((1.0, 0.001), (2.5, 0.03)):
        sent = release.prototypes[truth] + scale * noise
        said = forward(made.halves.head, torch.from_numpy(sent)).argmax(dim=1).numpy()
        assert (said != nearest(sent, release.prototypes)).mean() <= disagreement


def test_center_noise_without_a_radius_claims_an_average_only() -> None:
    made = _harden("center_noise", "dense1", options={"radius": "none"})
    strength = made.guarantees[0].strength
    assert isinstance(strength, InformationBound)
    assert not strength.worst_case
    assert 0 < strength.total_variation <= 1
    assert loss_of(made) < 0.05


@pytest.mark.parametrize("method", ["adapter_code", "prototype_code", "center_noise", "ceb"])
def test_regression_goes_along_a_line(method: str) -> None:
    made = hardened(method, "conv1", Kind.REGRESSION)
    assert loss_of(made, Kind.REGRESSION) < 0.05
    _, _, _, test, answers = deployed(Kind.REGRESSION)
    if isinstance(made.halves.release, Code):
        assert made.halves.release.alphabet == answers.levels == 16
        assert len(np.unique(made.halves.predict(test.x))) <= answers.levels


def test_anomaly_labels_are_two_classes() -> None:
    made = hardened("adapter_code", "conv1", Kind.ANOMALY)
    assert loss_of(made, Kind.ANOMALY) < 0.05
    assert isinstance(made.halves.release, Code)
    assert made.halves.release.alphabet == 2


def test_baselines_claim_nothing_beyond_their_attacks() -> None:
    for method in ("center", "noise", "vib", "supcon", "siamese", "nopeek", "nullspace"):
        (claim,) = hardened(method).guarantees
        assert isinstance(claim.strength, Empirical), method


@pytest.mark.parametrize("method", ["prototype_code", "ceb"])
def test_methods_that_retrain_refuse_without_permission(method: str) -> None:
    with pytest.raises(ConfigError, match="retrain"):
        _harden(method, "conv1", retrain=False)


def test_an_adapter_is_chosen_within_the_clients_share() -> None:
    small = _harden("adapter_code", "conv1", max_client_share=0.3, epochs=1)
    large = _harden("adapter_code", "conv1", max_client_share=20.0, epochs=1)
    assert small.costs.client_flops_share < large.costs.client_flops_share


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [(4, 20), (4, 20, 12)])
def test_necks_end_in_the_size_asked_for(style: str, shape: tuple[int, ...]) -> None:
    made = neck(shape, 5, style=style, width=8, hidden=8).eval()
    assert made(torch.zeros(2, *shape)).shape == (2, 5)


def test_an_unknown_neck_is_refused() -> None:
    with pytest.raises(ConfigError, match="neck"):
        _harden("adapter_code", "dense1", options={"neck": "conv"})


def test_a_simplex_has_equal_distances_in_one_dimension_less() -> None:
    points = simplex(5, separation=8.0)
    assert points.shape == (5, 4)
    distances = torch.cdist(points, points)[~torch.eye(5, dtype=torch.bool)]
    assert torch.allclose(distances, torch.full_like(distances, 8.0), atol=1e-4)


def test_center_loss_against_values_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    y = torch.tensor([0, 1])
    for distance, expected in (("l2", (1 + 4) / 2), ("l1", (1 + 2) / 2), ("mahalanobis", 2.5)):
        loss = CenterLoss(2, 2, distance=distance).eval()  # type: ignore[arg-type]
        assert loss(features, y, features, {}).item() == pytest.approx(expected), distance
    cosine = CenterLoss(2, 2, distance="cosine").eval()
    with torch.no_grad():
        cosine.centers.copy_(torch.tensor([[0.0, 3.0], [0.0, 1.0]]))
    assert cosine(features, y, features, {}).item() == pytest.approx(0.5)


def test_centers_start_at_the_class_means_and_run_after_them() -> None:
    features = torch.tensor([[1.0, 1.0], [3.0, 1.0], [0.0, 4.0]])
    y = torch.tensor([0, 0, 1])
    loss = CenterLoss(3, 2, centers="running", momentum=0.5)
    loss.start(features, y)
    assert torch.equal(loss.centers, torch.tensor([[2.0, 1.0], [0.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(loss.variance, torch.tensor([2 / 3, 1e-4]))
    loss.train()(torch.tensor([[4.0, 1.0]]), torch.tensor([0]), features, {})
    assert torch.equal(loss.centers[0], torch.tensor([3.0, 1.0]))
    fixed = CenterLoss(3, 2, centers="simplex")
    before = fixed.centers.clone()
    fixed.start(features, y)
    assert torch.equal(fixed.centers, before)


def test_supervised_contrast_against_a_value_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0, 1])
    expected = -math.log(math.e / (math.e + 1))
    loss = SupervisedContrastive(temperature=1.0)(features, y, features, {})
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    alone = SupervisedContrastive()(features[1:], y[1:], features, {})
    assert float(alone) == 0.0


def test_siamese_pairs_against_a_value_by_hand() -> None:
    features = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    # Pairs: (0, 2) differ at distance 3, (1, 0) agree at 1, (2, 1) differ at sqrt(10).
    expected = ((4 - 3) ** 2 + 1 + (4 - math.sqrt(10)) ** 2) / 3 / 2
    assert float(Siamese(margin=4.0)(features, y, features, {})) == pytest.approx(expected)


def test_distance_correlation_knows_copies_from_strangers() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    loss = DistanceCorrelation()
    y = torch.zeros(200, dtype=torch.int64)
    assert float(loss(2 * x + 1, y, x, {})) == pytest.approx(1.0, abs=1e-3)
    stranger = torch.randn(200, 3, generator=generator)
    assert float(loss(stranger, y, x, {})) < 0.35


def test_an_adversary_of_no_opinion_has_least_negative_entropy() -> None:
    reader = Adversary(2, {"person": 4})
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.zero_()
    features, y = torch.randn(6, 2), torch.zeros(6, dtype=torch.int64)
    assert reader(features, y, features, {}).item() == pytest.approx(-math.log(4))
    private = {"person": torch.tensor([0, 1, 2, 3, 0, 1])}
    assert reader.adversary_loss(features, private).item() == pytest.approx(math.log(4))


def test_regression_prototypes_lie_on_a_line_in_the_order_of_their_answers() -> None:
    model, train, validation, _, answers = deployed(Kind.REGRESSION)
    problem = Problem(model=model, cut="conv1", train=train, validation=validation, answers=answers)
    prototypes = Prototypes.of(problem)
    assert answers.values is not None
    assert prototypes.points.shape == (answers.levels, 1)
    steps = np.diff(prototypes.points[:, 0].numpy())
    assert np.allclose(steps, SEPARATION)
    values = torch.from_numpy(answers.values)
    assert torch.allclose(prototypes.target(values), prototypes.points, atol=1e-3)
    between = (values[3:4] + values[4:5]) / 2
    target = prototypes.target(between)
    assert float(target) == pytest.approx(3.5 * SEPARATION, abs=1e-3)
    # Half a level from both: a quarter of a squared separation.
    assert float(prototypes.away(prototypes.points[3:4], between)) == pytest.approx(0.25, abs=1e-4)


def spread(made: Hardened) -> float:
    """Variance of clean features about their class means, by the variance in all."""
    _, _, _, test, _ = deployed()
    features = made.halves.features(test.x)
    means = np.stack([features[test.public == c].mean(axis=0) for c in range(CLASSES)])
    within = ((features - means[np.asarray(test.public)]) ** 2).sum()
    return float(within / ((features - features.mean(axis=0)) ** 2).sum())


def test_what_another_method_hardened_can_be_sealed() -> None:
    """Features that are encrypted are those that center loss pulled together."""
    plain = hardened("sealed", "dense1")
    made = _harden("sealed", "dense1", options={"encoder": "center", "weight": 30.0})
    assert made.method == "sealed"
    assert made.options["encoder"] == "center"
    assert spread(made) < 0.8 * spread(plain)
    assert loss_of(made) <= 0.05


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": "adapter_code"}, ConfigError, "encoder='adapter_code'"),
        ({"encoder": "centre"}, ConfigError, "encoder='centre'"),
        ({"encoder": "noise"}, UnsupportedError, "noisy"),
        ({"weight": 1.0}, ConfigError, "weight"),
        ({"encoder": "center", "sigm": 1.0}, ConfigError, "sigm"),
        ({"flooding_bits": 1.5}, ConfigError, "flooding_bits=1.5"),
        ({"flooding_bits": -1}, ConfigError, "flooding_bits=-1"),
    ],
)
def test_what_cannot_be_sealed_together_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _harden("sealed", "dense1", options=options, epochs=1)
