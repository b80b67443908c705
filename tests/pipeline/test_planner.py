"""The planner: recommends what exists, says "not yet" for the rest, and writes a valid recipe."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest

from reticent.errors import ConfigError
from reticent.guarantee import Pillar
from reticent.pipeline.planner import Learner, Needs, Status, plan
from reticent.pipeline.recipe import Recipe

SUBSETS = [
    combination for size in (1, 2, 4) for combination in itertools.combinations(Pillar, size)
]


def needs(
    *protect: Pillar,
    learners: tuple[Learner, ...] = (Learner.SERVER,),
    may_retrain: bool = True,
    client_share: float = 1.0,
) -> Needs:
    return Needs(
        protect=protect, learners=learners, may_retrain=may_retrain, client_share=client_share
    )


@pytest.mark.parametrize("protect", SUBSETS, ids="+".join)
@pytest.mark.parametrize("learners", [(Learner.SERVER,), (Learner.CLIENT,), tuple(Learner)])
@pytest.mark.parametrize("may_retrain", [True, False])
@pytest.mark.parametrize("client_share", [0.05, 0.3, 1.0])
def test_every_plan_answers_every_need_and_writes_a_recipe_that_loads(
    protect: tuple[Pillar, ...],
    learners: tuple[Learner, ...],
    may_retrain: bool,
    client_share: float,
) -> None:
    asked = needs(*protect, learners=learners, may_retrain=may_retrain, client_share=client_share)
    made = plan(asked)
    pairs = {(item.pillar, item.learner) for item in made.answers}
    assert pairs == set(itertools.product(protect, learners))
    written = Recipe.from_dict(tomllib.loads(made.to_toml()))
    assert written == made.recipe
    assert written.inference.channel == made.channel
    assert written.inference.method == made.method
    json.dumps(made.to_json())
    wants_split = Pillar.INPUT in protect and Learner.SERVER in learners
    seals = Learner.SERVER in learners and Pillar.OUTPUT in protect
    seals |= wants_split and Pillar.MODEL in protect and Learner.CLIENT in learners
    assert made.channel == ("sealed" if seals else "split" if wants_split else "plain")
    if made.method == "prototype_code":
        assert may_retrain
    if wants_split and client_share < 1:
        assert written.gates.max_client_flops_share == client_share


def test_input_from_the_server_is_served_by_label_codes() -> None:
    made = plan(needs(Pillar.INPUT))
    assert (made.channel, made.method) == ("split", "prototype_code")
    assert made.answers[0].status is Status.SERVED
    assert made.recipe.gates.stated() == {"max_excess_leakage": 0.02, "max_utility_loss": 0.01}
    assert made.recipe.inference.codes is None


@pytest.mark.parametrize(
    ("may_retrain", "client_share", "method"),
    [
        (True, 1.0, "prototype_code"),
        (True, 0.3, "adapter_code"),
        (False, 1.0, "adapter_code"),
        (False, 0.1, "adapter_code"),
    ],
)
def test_the_method_follows_from_retraining_and_client_share(
    may_retrain: bool, client_share: float, method: str
) -> None:
    made = plan(needs(Pillar.INPUT, may_retrain=may_retrain, client_share=client_share))
    assert made.method == method
    assert any(method in reason for reason in made.reasons)


def test_a_split_never_says_that_it_hides_the_answer_and_ciphertexts_do() -> None:
    made = plan(needs(Pillar.INPUT))
    assert made.channel == "split"
    assert any("does learn the label" in reason for reason in made.reasons)
    made = plan(needs(Pillar.INPUT, Pillar.OUTPUT))
    assert (made.channel, made.recipe.scenario.output_seen_by) == ("sealed", "client")
    assert {item.status for item in made.answers} == {Status.SERVED}
    assert plan(needs(Pillar.OUTPUT, learners=(Learner.OUTSIDER,))).channel == "plain"


def test_input_and_model_together_take_the_sealed_split() -> None:
    both = plan(needs(Pillar.INPUT, Pillar.MODEL, learners=(Learner.SERVER, Learner.CLIENT)))
    model = {item.learner: item for item in both.answers if item.pillar is Pillar.MODEL}
    assert (both.channel, both.method) == ("sealed", "sealed")
    # Weights stay where they are, but nothing bounds extraction, and the server still holds them.
    assert model[Learner.CLIENT].status is Status.PARTLY
    assert model[Learner.SERVER].status is Status.NOT_YET
    alone = plan(needs(Pillar.MODEL, learners=(Learner.CLIENT,)))
    assert (alone.channel, alone.answers[0].status) == ("plain", Status.PARTLY)


def test_training_data_is_not_yet_and_the_recipe_says_so() -> None:
    made = plan(needs(Pillar.TRAINING_DATA, learners=tuple(Learner)))
    assert {item.status for item in made.answers} == {Status.NOT_YET}
    assert made.open_needs() == made.answers
    comments = [line for line in made.to_toml().splitlines() if line.startswith("# ")]
    assert any("Not yet: training data from client" in line for line in comments)
    assert any("does not protect" in reason for reason in made.reasons)
    assert made.recipe.gates.stated() == {}


def test_a_tiny_client_share_is_warned_about() -> None:
    assert any("below" in reason for reason in plan(needs(Pillar.INPUT, client_share=0.02)).reasons)
    assert not any("below" in item for item in plan(needs(Pillar.INPUT, client_share=0.2)).reasons)


def test_the_task_is_carried_into_the_recipe() -> None:
    made = plan(needs(Pillar.INPUT), data="adult", public="income", private=("sex",))
    task = made.recipe.task
    assert (task.data, task.public, task.private) == ("adult", "income", ("sex",))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"protect": ()}, "protect=()"),
        ({"learners": ()}, "learners=()"),
        ({"client_share": 0.0}, "client_share=0.0"),
        ({"client_share": 1.5}, "client_share=1.5"),
        ({"client_share": float("nan")}, "client_share=nan"),
    ],
)
def test_impossible_needs_are_refused(change: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Needs(**({"protect": (Pillar.INPUT,)} | change))  # type: ignore[arg-type]
    assert part in str(caught.value)
