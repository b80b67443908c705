"""The planner: three answers in, a channel, a method and a ready recipe out.

1. What is sensitive: training data, input, output, model?
2. Who must not learn it: the server, the client, an outsider on the network?
3. May the deployed model be re-trained, and how much of it may run on the client?

It recommends only what this version has, and says "not yet" for the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reticent.errors import ConfigError
from reticent.guarantee import Pillar
from reticent.pipeline import toml
from reticent.pipeline.recipe import Recipe

# A code made by fine-tuning needs a late cut. In our study on motion data of 30 people a cut at
# 41 % of the computation lost 15 points of accuracy with it, and none with an adapter.
FINE_TUNED_SHARE = 0.6
# The smallest adapter that kept utility within a point in that study stood at 9 % (digits).
SMALLEST_SHARE_SEEN = 0.09
MAX_EXCESS_LEAKAGE, MAX_UTILITY_LOSS = 0.02, 0.01


class Learner(StrEnum):
    """Who must not learn."""

    SERVER = "server"
    CLIENT = "client"
    OUTSIDER = "outsider"


class Status(StrEnum):
    """What this version does about one need."""

    SERVED = "served"
    PARTLY = "partly"
    NOT_YET = "not yet"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The three answers. `client_share` is the largest share of the model's FLOPs on the client."""

    protect: tuple[Pillar, ...]
    learners: tuple[Learner, ...] = (Learner.SERVER,)
    may_retrain: bool = True
    client_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.protect:
            raise ConfigError(
                "Expected at least one thing to protect, got protect=(). "
                f"Choose among {', '.join(Pillar)}."
            )
        if not self.learners:
            raise ConfigError(
                "Expected at least one party that must not learn, got learners=(). "
                f"Choose among {', '.join(Learner)}."
            )
        if not 0 < self.client_share <= 1:
            raise ConfigError(
                f"Expected 0 < client_share <= 1, got client_share={self.client_share}. "
                "Give the largest share of the model that the client may compute."
            )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What this version does to keep one pillar from one party, and how."""

    pillar: Pillar
    learner: Learner
    status: Status
    how: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is recommended, why, what it leaves open, and the recipe that does it."""

    needs: Needs
    channel: str
    method: str | None
    answers: tuple[Answer, ...]
    reasons: tuple[str, ...]
    recipe_data: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The recipe, validated."""
        return Recipe.from_dict(self.recipe_data, source="plan")

    def open_needs(self) -> tuple[Answer, ...]:
        """What was asked for and is not, or only partly, served."""
        return tuple(
            item for item in self.answers if item.status in (Status.NOT_YET, Status.PARTLY)
        )

    def to_toml(self) -> str:
        """The recipe as TOML, with the reasons and open needs as comments on top."""
        lines = [*self.reasons]
        lines += [
            f"{item.status.capitalize()}: {item.pillar} from {item.learner}. {item.how}"
            for item in self.open_needs()
        ]
        comments = [
            textwrap.fill(line, 96, initial_indent="# ", subsequent_indent="#   ") for line in lines
        ]
        return "\n".join([*comments, "", toml.dumps(self.recipe_data)])

    def to_json(self) -> dict[str, Any]:
        """A JSON object: needs, recommendation, answers, reasons, recipe."""
        return {
            "needs": {
                "protect": [pillar.value for pillar in self.needs.protect],
                "learners": [learner.value for learner in self.needs.learners],
                "may_retrain": self.needs.may_retrain,
                "client_share": self.needs.client_share,
            },
            "channel": self.channel,
            "method": self.method,
            "answers": [
                {
                    "pillar": item.pillar.value,
                    "learner": item.learner.value,
                    "status": item.status.value,
                    "how": item.how,
                }
                for item in self.answers
            ],
            "reasons": list(self.reasons),
            "recipe": self.recipe.to_dict(),
        }


def plan(
    needs: Needs, *, data: str = "gait", public: str | None = None, private: tuple[str, ...] = ()
) -> Plan:
    """The recommendation for `needs` on the task `data`."""
    channel = _channel(needs)
    method: str | None
    reasons: tuple[str, ...]
    if channel == "sealed":
        method, reasons = "sealed", _SEALED_REASONS
    elif channel == "split":
        method, reasons = _method(needs)
    else:
        method, reasons = None, _plain_reasons(needs)
    answers = tuple(
        _answer(pillar, learner, channel) for pillar in needs.protect for learner in needs.learners
    )
    return Plan(
        needs=needs,
        channel=channel,
        method=method,
        answers=answers,
        reasons=reasons,
        recipe_data=_recipe_data(needs, channel, method, data, public, private),
    )


def _channel(needs: Needs) -> str:
    """Ciphertexts where the answer, or input and model at once, are to be kept; else a code."""
    hides_input = Pillar.INPUT in needs.protect and Learner.SERVER in needs.learners
    hides_answer = Pillar.OUTPUT in needs.protect and Learner.SERVER in needs.learners
    keeps_model = Pillar.MODEL in needs.protect and Learner.CLIENT in needs.learners
    if hides_answer or (hides_input and keeps_model):
        return "sealed"
    return "split" if hides_input else "plain"


_SEALED_REASONS = (
    "Sealed split: the client runs the encoder and encrypts a few features; the server computes "
    "the rest on ciphertexts. It learns neither input nor answer, and the head stays with it.",
    "It is paid with bytes and time: hundreds of kilobytes and some hundredths of a second a "
    "query, tens of megabytes of evaluation keys once a client.",
)


def _method(needs: Needs) -> tuple[str, tuple[str, ...]]:
    reasons = [
        "Split channel: the client sends the index of one code per class and nothing else, so the "
        "server learns nothing about any attribute beyond the label, however often it is asked.",
        "The server does learn the label: it computes the answer. And the client's half is the "
        "classifier: keeping the input from the server is paid with showing it to the client.",
    ]
    if not needs.may_retrain:
        method = "adapter_code"
        reasons.append(
            "Method adapter_code: the deployed weights stay as they are; a small adapter behind "
            "an early cut gives the code."
        )
    elif needs.client_share < FINE_TUNED_SHARE:
        method = "adapter_code"
        reasons.append(
            f"Method adapter_code, although re-training is allowed: with at most "
            f"{needs.client_share:.0%} of the model on the client the cut is early, where "
            "fine-tuning for a code costs more accuracy than an adapter."
        )
    else:
        method = "prototype_code"
        reasons.append(
            "Method prototype_code: fine-tuning draws the features of each class to a prototype, "
            "so that the index of the nearest prototype keeps the accuracy."
        )
    if needs.client_share < SMALLEST_SHARE_SEEN:
        reasons.append(
            f"A client share of {needs.client_share:.1%} is below what kept accuracy in our study "
            f"({SMALLEST_SHARE_SEEN:.0%}). The gates make the run fail rather than give in."
        )
    return method, tuple(reasons)


def _plain_reasons(needs: Needs) -> tuple[str, ...]:
    if any(
        _answer(pillar, learner, "plain").status is Status.SERVED
        for pillar, learner in _pairs(needs)
    ):
        return ("Plain channel behind TLS: no split is needed for what was asked.",)
    return (
        "Plain channel: the undefended baseline. What was asked needs a mechanism that this "
        "version lacks, so this recipe measures and does not protect.",
    )


def _pairs(needs: Needs) -> list[tuple[Pillar, Learner]]:
    return [(pillar, learner) for pillar in needs.protect for learner in needs.learners]


def _answer(pillar: Pillar, learner: Learner, channel: str) -> Answer:
    status, how = _VERDICTS[pillar, learner]
    if channel == "sealed":
        status, how = _SEALED_VERDICTS.get((pillar, learner), (status, how))
    if channel == "split" and (pillar, learner) == (Pillar.MODEL, Learner.CLIENT):
        status, how = (
            Status.NOT_YET,
            "In a split that protects the input the client's half is the classifier. Having both "
            "needs the sealed split: ask for the model to be kept from the client.",
        )
    return Answer(pillar=pillar, learner=learner, status=status, how=how)


_CIPHERTEXTS = (
    "On ciphertexts (CKKS, 128 bits; packing and masks are ours and unaudited); the audit attacks "
    "it."
)
_SEALED_VERDICTS: Mapping[tuple[Pillar, Learner], tuple[Status, str]] = {
    (Pillar.INPUT, Learner.SERVER): (Status.SERVED, _CIPHERTEXTS),
    (Pillar.OUTPUT, Learner.SERVER): (Status.SERVED, _CIPHERTEXTS),
    (Pillar.MODEL, Learner.CLIENT): (
        Status.PARTLY,
        "The head never leaves the server. The client does get the encoder, and nothing bounds "
        "what is learnt from the answers (model extraction).",
    ),
}
_TLS = "Run the service with TLS and API keys: what crosses the network is encrypted."
_OWN = "It is the client's own."
_PRIVATE_TRAINING = "It needs training with differential privacy, which this version lacks."
_VERDICTS: Mapping[tuple[Pillar, Learner], tuple[Status, str]] = {
    (Pillar.INPUT, Learner.SERVER): (
        Status.SERVED,
        "Split channel with label codes; the audit attacks it.",
    ),
    (Pillar.INPUT, Learner.CLIENT): (Status.NOT_NEEDED, _OWN),
    (Pillar.INPUT, Learner.OUTSIDER): (Status.SERVED, _TLS),
    (Pillar.OUTPUT, Learner.SERVER): (
        Status.NOT_YET,
        "In this channel the server computes the answer in clear. Hiding it needs the sealed "
        "split.",
    ),
    (Pillar.OUTPUT, Learner.CLIENT): (Status.NOT_NEEDED, "The answer is for the client."),
    (Pillar.OUTPUT, Learner.OUTSIDER): (Status.SERVED, _TLS),
    (Pillar.MODEL, Learner.SERVER): (
        Status.NOT_YET,
        "The server holds the weights. Keeping them from it needs shares over servers that do "
        "not collude, or attested hardware.",
    ),
    (Pillar.MODEL, Learner.CLIENT): (
        Status.PARTLY,
        "In the plain channel no weights leave the server, but nothing bounds what is learnt "
        "from the answers (model extraction).",
    ),
    (Pillar.MODEL, Learner.OUTSIDER): (
        Status.PARTLY,
        "API keys and limits keep strangers from asking; nothing bounds what a key's holder "
        "learns from the answers.",
    ),
    (Pillar.TRAINING_DATA, Learner.SERVER): (
        Status.NOT_YET,
        "The server trains on the records in clear. Keeping them from it needs federated training.",
    ),
    (Pillar.TRAINING_DATA, Learner.CLIENT): (Status.NOT_YET, _PRIVATE_TRAINING),
    (Pillar.TRAINING_DATA, Learner.OUTSIDER): (Status.NOT_YET, _PRIVATE_TRAINING),
}


def _recipe_data(
    needs: Needs,
    channel: str,
    method: str | None,
    data: str,
    public: str | None,
    private: tuple[str, ...],
) -> dict[str, Any]:
    task: dict[str, Any] = {"data": data}
    if public is not None:
        task["public"] = public
    if private:
        task["private"] = list(private)
    record: dict[str, Any] = {"name": "plan", "description": _description(needs), "task": task}
    if method is None:
        return record | {"inference": {"channel": "plain"}}
    gates = {"max_excess_leakage": MAX_EXCESS_LEAKAGE, "max_utility_loss": MAX_UTILITY_LOSS}
    if needs.client_share < 1:
        gates["max_client_flops_share"] = needs.client_share
    return record | {"inference": {"channel": channel, "method": method}, "gates": gates}


def _description(needs: Needs) -> str:
    return f"Keep {', '.join(needs.protect)} from {', '.join(needs.learners)}."
