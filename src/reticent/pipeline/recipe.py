"""A recipe: one run, written down as typed TOML.

Everything that a run needs stands in one frozen `Recipe`: the task, who holds and sees what, the
model, its training, the channel, the audit, and the gates that the result must pass. A key that
is not known is refused, never ignored: a misspelt gate would otherwise pass silently.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reticent.errors import ConfigError, UnsupportedError
from reticent.pipeline import toml
from reticent.pipeline.problems import explain

NETWORKS = ("mlp", "convnet1d", "convnet2d", "one_class")
REGIMES = ("auto", "known", "unseen", "both")
Method = Literal[
    "sealed",
    "prototype_code",
    "adapter_code",
    "center_noise",
    "center",
    "ceb",
    "vib",
    "noise",
    "supcon",
    "siamese",
    "nopeek",
    "adversarial",
    "shredder",
    "nullspace",
]
CODE_METHODS = frozenset({"prototype_code", "adapter_code"})
# These leave the deployed weights untouched; every other method fine-tunes them.
KEEPS_WEIGHTS = frozenset({"adapter_code", "shredder", "nullspace", "sealed"})
DEFAULT_METHOD = "adapter_code"
# The server computes on ciphertexts; only the client sees the answer.
ENCRYPTED = frozenset({"sealed", "ckks"})
# Channels that DESIGN names and this version lacks, with what each would give.
NOT_YET = {
    "mpc": "the model on shares that two or three servers hold",
    "enclave": "the model inside attested hardware",
}


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _thawed(item) for name, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, list | tuple) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({name: _frozen(item) for name, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _regime(value: Any) -> Any:
    choices = value.values() if isinstance(value, Mapping) else (value,)
    if not all(isinstance(choice, str) and choice in REGIMES for choice in choices):
        raise ValueError(f"one of {', '.join(REGIMES)}, or a table with one of them per attribute")
    return value


def _cut(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError('"auto", the name of a cut, or its number counted from 0')
    if isinstance(value, int) and value < 0:
        raise ValueError("a number of at least 0, counted from the input")
    return value


def _model_name(value: str) -> str:
    if value in ("auto", *NETWORKS):
        return value
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", value):
        raise ValueError(f"auto, {', '.join(NETWORKS)}, or package.module:factory")
    return value


Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(strict=False)]
Options = Annotated[Mapping[str, Any], AfterValidator(_frozen), PlainSerializer(_thawed)]
Regimes = Annotated[
    Any, BeforeValidator(_regime), AfterValidator(_frozen), PlainSerializer(_thawed)
]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TaskTable(_Table):
    """[task]: the records, the public label, what is private, and the unit of privacy.

    `data` is an embedded set's name, a real set's name (found in `root`, else in the folder that
    RETICENT_DATA names), or a path to CSV, Parquet or npz. `public` and `private` default to the
    set's own. `options` go to the loader as they are. `regime` says whether users of the test are
    known to the attacker: one of `REGIMES`, or a table with one of them per attribute.
    """

    data: Text
    public: Text | None = None
    private: Names = ()
    unit: Literal["record", "user"] = "record"
    root: Text | None = None
    regime: Regimes = "auto"
    options: Options = Field(default_factory=dict)

    def regime_of(self, attribute: str) -> str:
        """The regime in which `attribute` is attacked: auto, known, unseen or both."""
        if isinstance(self.regime, Mapping):
            return str(self.regime.get(attribute, "auto"))
        return str(self.regime)


class ScenarioTable(_Table):
    """[scenario]: who holds the input, who computes, who hosts the server, who sees the answer.

    What is left out follows from the channel. A scenario that the channel can't give is refused.
    """

    data_held_by: Literal["client"] = "client"
    computed_by: Literal["both", "server"]
    hosted_by: Literal["server", "third party"] = "server"
    output_seen_by: Literal["both", "client"] = "both"


class ModelTable(_Table):
    """[model]: a reference network's name, or "package.module:factory", which is code that runs.

    `checkpoint` is a folder that `reticent train` wrote: the deployed model is then loaded, not
    trained. It must have been trained on this recipe's data and seed, whose partition it keeps.
    """

    name: Annotated[Text, AfterValidator(_model_name)] = "auto"
    checkpoint: Text | None = None
    options: Options = Field(default_factory=dict)


class PrivateTable(_Table):
    """[train.private]: train with differential privacy (DP-SGD), paid for by a ledger.

    `epsilon` and `delta` hold for each record of the training part, or each user with [task]
    unit = "user", of whom at most `records_per_user` records are used. `low` and `high` are the
    public range of the inputs, which takes the place of a standardisation fitted to the data.
    For a regression `label_low` and `label_high`, public too, do so for the labels.
    Images may be seen as `augmentations` random views by `augment`: their mean gradient is clipped.
    `ledger` is a path (default: the user's own), or "none", which charges nobody and says so;
    `dataset` the name that the records were granted their budget under (default: the task's),
    `key` what the run is called in the ledger, where it runs once.
    """

    epsilon: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 1e-5
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    expected_batch: Annotated[int, Field(ge=1)] = 256
    chunk: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.9
    averaging: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    clipping: Literal["flat", "per_layer", "automatic"] = "flat"
    clipping_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    augment: Literal["flip", "shift", "flip and shift"] | None = None
    augmentations: Annotated[int, Field(ge=1, le=1000)] = 1
    records_per_user: Annotated[int, Field(ge=1, le=10_000)] = 1
    low: Annotated[float, Field(allow_inf_nan=False)] = -1.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    label_low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    label_high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    ledger: Text | None = None
    dataset: Text | None = None
    key: Text | None = None

    @property
    def label_span(self) -> tuple[float, float] | None:
        """The labels' public range; None for classes."""
        if self.label_low is None or self.label_high is None:
            return None
        return self.label_low, self.label_high


class TrainTable(_Table):
    """[train]: how the model is trained before it is hardened; `private` states DP-SGD instead."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 12
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1e-3
    batch_size: Annotated[int, Field(ge=1)] = 64
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1e-4
    private: PrivateTable | None = None


class InferenceTable(_Table):
    """[inference]: the channel, and for the split channel what protects the features.

    `codes` is the size of the alphabet (None: one code per class). `retrain` says whether the
    deployed weights may change (None: as the method does).
    """

    channel: Literal["split", "plain", "sealed", "ckks"] = "split"
    method: Method | None = None
    cut: Annotated[int | str, BeforeValidator(_cut)] = "auto"
    codes: Annotated[int, Field(ge=2, le=65_536)] | None = None
    retrain: bool | None = None
    options: Options = Field(default_factory=dict)


class AuditTable(_Table):
    """[audit]: which attributes are attacked, pooling how many requests, by which families.

    Empty `attributes` means every private one; empty `families` means every one there is.
    `frontier` lists methods to put beside the chosen one, each as "method" or "method@cut".
    `attacks` names the further attacks on the service that is published ("all": every one that
    `access` allows; see `reticent audit --list`).
    """

    attributes: Names = ()
    requests: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)
    ] = (1, 8, 32)
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    quick: bool = False
    families: Names = ()
    frontier: Names = ()
    attacks: Names = ()
    access: Literal["L1", "L2", "L3"] = "L2"
    shadows: Annotated[int, Field(ge=2, le=10_000)] = 64


class GatesTable(_Table):
    """[gates]: what the result must keep, as fractions of 1; a gate left out is not checked."""

    max_excess_leakage: Fraction | None = None
    max_utility_loss: Fraction | None = None
    max_client_flops_share: Fraction | None = None
    max_total_variation: Fraction | None = None

    def stated(self) -> dict[str, float]:
        """The gates that are set, by name."""
        gates: dict[str, float] = self.model_dump(exclude_none=True)
        return gates


class Recipe(_Table):
    """One run, complete and frozen; made by `load_recipe` or `Recipe.from_dict`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: TaskTable
    scenario: ScenarioTable
    model: ModelTable = Field(default_factory=ModelTable)
    train: TrainTable = Field(default_factory=TrainTable)
    inference: InferenceTable = Field(default_factory=InferenceTable)
    audit: AuditTable = Field(default_factory=AuditTable)
    gates: GatesTable = Field(default_factory=GatesTable)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "recipe", overridden: Sequence[str] = ()
    ) -> Self:
        """The recipe that `data` describes, defaults filled in.

        Raises `ConfigError` that names `source`, table, key, value and remedy for each problem
        (`overridden` lists dotted keys that came from `--set`), and `UnsupportedError` for a
        scenario that needs a mechanism this version lacks.
        """
        try:
            return cls.model_validate(_with_implied(data))
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source, overridden)) from None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _check_training(self)
        _check_inference(self)
        _check_scenario(self)
        _check_attributes(self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every value by table, defaults included; what is unset or empty tables are left out."""
        record: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return _without_empty(record)

    def to_toml(self) -> str:
        """TOML text that loads as an equal recipe."""
        return toml.dumps(self.to_dict())

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces): equal recipes give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of `to_json`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the TOML file `path`, with `overrides` such as "train.epochs=3" on top.

    An override's value is read as TOML, or as a string where it is not TOML. The name defaults
    to the file's. Raises `ConfigError` for a file, key or value that can't be used.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"Expected a readable recipe, got path={str(path)!r}: {reason}. "
            "Check the path, or write a recipe with: reticent plan --out DIR"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path.name}: expected TOML, but {error}. Strings need quotes; see https://toml.io."
        ) from None
    data.setdefault("name", _slug(path.stem))
    data = apply_overrides(data, overrides)
    keys = [override.partition("=")[0].strip() for override in overrides]
    return Recipe.from_dict(data, source=path.name, overridden=keys)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's tables with overrides such as "train.epochs=3" on top."""
    changed: dict[str, Any] = _thawed(data)
    for override in overrides:
        _apply(changed, override)
    return changed


def _without_empty(table: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        name: _without_empty(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
    }
    return {name: value for name, value in inner.items() if value != {}}


def _slug(stem: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "recipe"


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(
            f"Expected an override such as train.epochs=3, got set={override!r}. "
            "Write TABLE.KEY=VALUE without spaces, or quote the whole."
        )
    table = data
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"Override {key.strip()!r} goes through {part!r}, which is no table but "
                f"{part}={inner!r}. Set {part!r} itself."
            )
        table = inner
    table[parts[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in `text` could smuggle in further keys; then it is a string.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _with_implied(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with what the channel implies: the default method, and who computes."""
    filled: dict[str, Any] = _thawed(data)
    inference = filled.setdefault("inference", {})
    scenario = filled.setdefault("scenario", {})
    if not isinstance(inference, dict) or not isinstance(scenario, dict):
        return filled
    channel = inference.get("channel", "split")
    if isinstance(channel, str) and channel in NOT_YET:
        raise UnsupportedError(
            f"Not yet: channel={channel!r} ({NOT_YET[channel]}) is not in this version. "
            'Choose channel = "split", "sealed" or "ckks", or "plain", the baseline.'
        )
    is_encrypted = isinstance(channel, str) and channel in ENCRYPTED
    if is_encrypted:
        inference.setdefault("method", "sealed")
        if channel == "ckks":
            inference.setdefault("cut", "input")
        scenario.setdefault("output_seen_by", "client")
    elif channel == "split":
        inference.setdefault("method", DEFAULT_METHOD)
    scenario.setdefault("computed_by", "both" if channel in ("split", "sealed") else "server")
    return filled


def _refuse(table: str, key: str, value: object, expected: str, remedy: str) -> None:
    context = {"table": table, "key": key, "value": value, "expected": expected, "remedy": remedy}
    raise PydanticCustomError("recipe", "{table}.{key}: expected {expected}. {remedy}", context)


def _check_training(recipe: Recipe) -> None:
    private = recipe.train.private
    if private is None:
        if recipe.audit.access == "L3":
            expected = "L1 or L2 without [train.private]"
            remedy = "Nobody can train models like a hardened one; audit its checkpoint instead."
            _refuse("audit", "access", "L3", expected, remedy)
        return
    plain = TrainTable()
    for key in ("epochs", "learning_rate", "batch_size", "weight_decay"):
        if getattr(recipe.train, key) != getattr(plain, key):
            expected = "no such key beside [train.private], which has its own"
            _refuse("train", key, getattr(recipe.train, key), expected, "Remove it.")
    if not private.low < private.high:
        _refuse("train", "private", private.low, "low < high", "Give the inputs' public range.")
    given = (private.label_low, private.label_high)
    span = private.label_span
    if given != (None, None) and (span is None or not span[0] < span[1]):
        expected = "label_low < label_high, both or neither"
        _refuse("train", "private", list(given), expected, "Give the labels' public range.")
    if private.augmentations > 1 and private.augment is None:
        _refuse(
            "train",
            "private",
            private.augmentations,
            "augment where augmentations are above 1",
            'Say how images are changed: augment = "shift".',
        )
    if private.records_per_user > 1 and recipe.task.unit != "user":
        expected = '1 with [task] unit = "record"'
        remedy = 'Remove it, or set [task] unit = "user".'
        _refuse("train", "private", private.records_per_user, expected, remedy)
    if recipe.audit.frontier:
        expected = "no such key with [train.private]: each method trains on the records again"
        _refuse("audit", "frontier", list(recipe.audit.frontier), expected, "Remove it.")
    if recipe.inference.channel not in ("plain", "ckks"):
        expected = '"plain" or "ckks" with [train.private]'
        remedy = (
            "Hardening reads the training records again, without privacy: the claim would be "
            'void. Set [inference] channel = "plain", or "ckks" for a linear network.'
        )
        _refuse("inference", "channel", recipe.inference.channel, expected, remedy)


def _check_inference(recipe: Recipe) -> None:
    inference = recipe.inference
    method, retrain = inference.method, inference.retrain
    if inference.channel == "plain":
        for key in ("method", "codes", "retrain"):
            if getattr(inference, key) is not None:
                expected = 'no such key with channel="plain", which protects nothing'
                remedy = 'Remove it, or set channel = "split".'
                _refuse("inference", key, getattr(inference, key), expected, remedy)
        return
    _check_encrypted(inference)
    if inference.codes is not None and method not in CODE_METHODS:
        expected = f"no codes with method={method!r}, which sends features"
        remedy = f"Remove codes, or choose a method among {', '.join(sorted(CODE_METHODS))}."
        _refuse("inference", "codes", inference.codes, expected, remedy)
    if retrain is False and method not in KEEPS_WEIGHTS:
        expected = f"true with method={method!r}, which fine-tunes the model"
        remedy = "Set retrain = true, or choose adapter_code, which keeps the deployed weights."
        _refuse("inference", "retrain", retrain, expected, remedy)
    if retrain is True and method in KEEPS_WEIGHTS:
        expected = f"false with method={method!r}, which keeps the deployed weights"
        remedy = "Remove retrain, or choose prototype_code, which fine-tunes."
        _refuse("inference", "retrain", retrain, expected, remedy)


def _check_encrypted(inference: InferenceTable) -> None:
    channel = inference.channel
    if (inference.method == "sealed") is not (channel in ENCRYPTED):
        expected = '"sealed" with channel="sealed" or "ckks", and there alone'
        remedy = "Remove the key, or choose the other channel."
        _refuse("inference", "method", inference.method, expected, remedy)
    if (inference.cut == "input") is not (channel == "ckks"):
        expected = '"input" with channel="ckks", which encrypts the whole model, and there alone'
        remedy = 'Remove the key, or set channel = "ckks".'
        _refuse("inference", "cut", inference.cut, expected, remedy)


def _check_scenario(recipe: Recipe) -> None:
    scenario, channel = recipe.scenario, recipe.inference.channel
    implied = "both" if channel in ("split", "sealed") else "server"
    if scenario.computed_by != implied:
        expected = f"{implied!r} with channel={channel!r}"
        remedy = "Remove the key, or choose the other channel."
        _refuse("scenario", "computed_by", scenario.computed_by, expected, remedy)
    if channel in ENCRYPTED:
        if scenario.output_seen_by != "client":
            expected = f'"client" with channel={channel!r}: the server sees no answer'
            remedy = "Remove the key."
            _refuse("scenario", "output_seen_by", scenario.output_seen_by, expected, remedy)
        return
    if scenario.output_seen_by == "client":
        raise UnsupportedError(
            "Never in this channel: output_seen_by='client' needs a computation on ciphertexts; "
            f"with channel={channel!r} the server computes the answer and so sees it. Set "
            '[inference] channel = "sealed" or "ckks", or [scenario] output_seen_by = "both".'
        )


def _check_attributes(recipe: Recipe) -> None:
    known = recipe.task.private
    if not known:
        return
    listed = [("audit", "attributes", name) for name in recipe.audit.attributes]
    if isinstance(recipe.task.regime, Mapping):
        listed += [("task", "regime", name) for name in recipe.task.regime]
    for table, key, name in listed:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else "Add it to [task] private."
            _refuse(table, key, name, f"names among [task] private = {list(known)}", remedy)
