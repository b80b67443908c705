"""Machine learning as a service in which no party learns more than it needs.

Names are imported when first used, so that a client never loads what only a provider needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reticent.attacks.finding import Finding
    from reticent.attacks.shadow.recipe import TrainingRecipe
    from reticent.attacks.target import Victim
    from reticent.audit.scorecard import Scorecard
    from reticent.data import load
    from reticent.data.files import from_arrays
    from reticent.data.partition import Partition, partition
    from reticent.data.task import Kind, Task
    from reticent.errors import ReticentError
    from reticent.guarantee import Adversary, Guarantee, InformationBound, Pillar
    from reticent.inference.channel import ask
    from reticent.inference.split.client import SplitClient
    from reticent.inference.split.odometer import Odometer
    from reticent.pipeline.deployment import Deployment, harden, suggest_cut
    from reticent.pipeline.model_audit import audit_model
    from reticent.pipeline.recipe import Recipe, load_recipe
    from reticent.pipeline.run import run
    from reticent.report import write_report
    from reticent.service.client import Client
    from reticent.service.remote import Remote
    from reticent.training.dp_sgd.charged import train_charged
    from reticent.transcript import Transcript

_HOME = {
    "Adversary": "reticent.guarantee",
    "Client": "reticent.service.client",
    "Deployment": "reticent.pipeline.deployment",
    "Finding": "reticent.attacks.finding",
    "Guarantee": "reticent.guarantee",
    "InformationBound": "reticent.guarantee",
    "Kind": "reticent.data.task",
    "Odometer": "reticent.inference.split.odometer",
    "Partition": "reticent.data.partition",
    "Pillar": "reticent.guarantee",
    "Recipe": "reticent.pipeline.recipe",
    "Remote": "reticent.service.remote",
    "ReticentError": "reticent.errors",
    "Scorecard": "reticent.audit.scorecard",
    "SplitClient": "reticent.inference.split.client",
    "Task": "reticent.data.task",
    "TrainingRecipe": "reticent.attacks.shadow.recipe",
    "Transcript": "reticent.transcript",
    "Victim": "reticent.attacks.target",
    "ask": "reticent.inference.channel",
    "audit_model": "reticent.pipeline.model_audit",
    "from_arrays": "reticent.data.files",
    "harden": "reticent.pipeline.deployment",
    "load": "reticent.data",
    "load_recipe": "reticent.pipeline.recipe",
    "partition": "reticent.data.partition",
    "run": "reticent.pipeline.run",
    "suggest_cut": "reticent.pipeline.deployment",
    "train_charged": "reticent.training.dp_sgd.charged",
    "write_report": "reticent.report",
}

__all__ = [
    "Adversary",
    "Client",
    "Deployment",
    "Finding",
    "Guarantee",
    "InformationBound",
    "Kind",
    "Odometer",
    "Partition",
    "Pillar",
    "Recipe",
    "Remote",
    "ReticentError",
    "Scorecard",
    "SplitClient",
    "Task",
    "TrainingRecipe",
    "Transcript",
    "Victim",
    "ask",
    "audit_model",
    "from_arrays",
    "harden",
    "load",
    "load_recipe",
    "partition",
    "run",
    "suggest_cut",
    "train_charged",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reticent' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
