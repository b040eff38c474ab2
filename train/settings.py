"""What a config file may say: schema, reading, overrides, comparison."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rstg_pyg.train.errors import UserError, nearest

CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Scale = PositiveInt | tuple[PositiveInt, PositiveInt]


class Section(BaseModel):
    """A part of a config: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """The videos; the numbers are those of :class:`rstg_pyg.train.data.syncmnist.SyncMNIST`."""

    dataset: Literal["syncmnist"] = "syncmnist"
    root: str | None = None
    digits: Literal["auto", "mnist", "builtin"] = "auto"
    seed: NonNegativeInt = 0
    num_digits: int = 5
    num_classes: int = 10
    num_frames: PositiveInt = 10
    frame_size: PositiveInt = 64
    canvas_size: PositiveInt = 100
    digit_size: PositiveInt = 28
    max_step: PositiveInt = 10
    none_probability: Fraction | None = None
    train_videos: PositiveInt = 600_000
    val_videos: PositiveInt = 2_000
    test_videos: PositiveInt = 10_000
    #: Mean and standard deviation of the pixels, 0..255: clips become (x - mean) / std.
    mean: float = 0.0
    std: Positive = 1.0
    #: 0: whole batches on the model's device; otherwise DataLoader workers, video by video.
    num_workers: NonNegativeInt = 0


class BackboneConfig(Section):
    """The per-frame convolutional network, :class:`rstg_pyg.backbones.SimpleConv`."""

    filters: list[PositiveInt] = [512, 512, 512]
    padding: NonNegativeInt = 0
    pool: bool | list[bool] = True


class RSTGConfig(Section):
    """The graph, :class:`rstg_pyg.RSTGBlock` and :class:`rstg_pyg.RSTG`."""

    hidden_channels: PositiveInt = 512
    scales: list[Scale] = [3, 2, 1]
    num_rounds: PositiveInt = 3
    time_stages: Literal["all", "last", "none"] | list[NonNegativeInt] = "all"
    space_stages: bool = True
    cell: Literal["lstm", "gru"] = "lstm"
    residual: bool = False
    shared_rounds: bool = True
    in_norm: Literal["batch"] | None = None
    positions: bool = True
    map_size: PositiveInt | None = None
    typed_update: bool = False
    attention: Literal["dot", "additive"] | None = "additive"
    heads: PositiveInt = 1
    attention_scale: Positive = 1.0
    dropout: Fraction = 0.0


class ModelConfig(Section):
    """Backbone, graph and classifier."""

    backbone: BackboneConfig = BackboneConfig()
    rstg: RSTGConfig = RSTGConfig()
    dropout: Fraction = 0.0


class PretrainConfig(Section):
    """Training of the filters alone before the main training, see :mod:`rstg_pyg.train.pretrain`."""

    steps: NonNegativeInt = 0
    batch_size: PositiveInt = 128
    lr: Positive = 4e-3


class TrainConfig(Section):
    """Optimisation."""

    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    momentum: Fraction = 0.9
    beta2: Fraction = 0.999
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.05
    clip: Positive | None = 1.0
    label_smoothing: Fraction = 0.0
    #: Steps between validations; each writes checkpoints.
    validate_every: PositiveInt = 1_000
    log_every: PositiveInt = 20


class TrainerConfig(Section):
    """Where and how the training runs; goes to Lightning's ``Trainer``."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = True
    #: CPU threads; torch's own choice if not given.
    threads: PositiveInt | None = None
    progress_bar: bool = True


class Config(Section):
    """A whole experiment."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.+-]+$")
    seed: NonNegativeInt = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    train: TrainConfig = TrainConfig()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        self.feature_map()
        rstg = self.model.rstg
        if rstg.hidden_channels % rstg.heads:
            raise ValueError(
                f"model.rstg.hidden_channels (got {rstg.hidden_channels}) must be divisible by "
                f"model.rstg.heads (got {rstg.heads})"
            )
        if rstg.time_stages == "none" and not rstg.space_stages:
            raise ValueError(
                "model.rstg: time_stages=none and space_stages=false leave nothing; use one of them"
            )
        if isinstance(rstg.time_stages, list) and max(rstg.time_stages, default=0) >= rstg.num_rounds:
            raise ValueError(
                f"model.rstg.time_stages: rounds go from 0 to {rstg.num_rounds - 1} "
                f"(got {rstg.time_stages})"
            )
        return self

    def feature_map(self) -> tuple[int, float, float]:
        """The map on which the nodes lie: side in cells, and where its cells are on a frame.

        Returns:
            Cells per side, the centre of the first one, and the distance from one to the next, both
            in pixels (pixel ``i`` spans ``i .. i + 1``).

        Raises:
            ValueError: If it is too small for the scales.
        """
        backbone = self.model.backbone
        pools = backbone.pool
        pools = [pools] * len(backbone.filters) if isinstance(pools, bool) else pools
        if len(pools) != len(backbone.filters):
            raise ValueError(
                f"model.backbone.pool: expected one value for each of {len(backbone.filters)} "
                f"stages (got {len(pools)})"
            )
        side, first, stride = self.data.frame_size, 0.5, 1.0
        for pool in pools:
            side = side - 2 + 2 * backbone.padding
            first += (1 - backbone.padding) * stride
            if pool:
                side, first, stride = side // 2, first + stride / 2, stride * 2
        finest = max(max(s) if isinstance(s, tuple) else s for s in self.model.rstg.scales)
        if side < finest:
            raise ValueError(
                f"model.rstg.scales: a scale of {finest} does not fit the feature map of {side} x "
                f"{side} cells that frames of {self.data.frame_size} pixels give; use coarser scales, "
                f"fewer poolings or larger frames"
            )
        return side, first, stride


def available_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(str(p.relative_to(CONFIG_FOLDER)) for p in CONFIG_FOLDER.rglob("*.yaml"))


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Reads a config, applies ``key.path=value`` overrides, and checks it.

    Args:
        name: A path, or the name of a config that comes with the package.
        overrides: Values to replace, YAML on the right side: ``data.num_digits=3``.

    Raises:
        UserError: If the file is missing, is not YAML, or says something the schema does not know.
    """
    path = _find(name)
    values = _read(path)
    base = values.pop("base", None)
    if base is not None:
        base_path = path.parent / str(base)
        base_values = _read(base_path if base_path.is_file() else _find(str(base)))
        if "base" in base_values:
            raise UserError(f"{path}: base: {base} has a base itself; only one level is allowed")
        values = _merge(base_values, values)
    for override in overrides or []:
        key, found, text = override.partition("=")
        if not found or not key:
            raise UserError(f"'{override}': expected an override key.path=value, e.g. train.lr=0.001")
        _set(values, key.strip().split("."), _parse(text, override), override)
    return parse_config(values, str(path))


def parse_config(values: Any, where: str) -> Config:
    """Checks plain values against the schema.

    Raises:
        UserError: With the first problems, each with its key.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a mapping of sections (got {type(values).__name__})")
    values = dict(values)
    values.setdefault("name", Path(where).stem)
    try:
        return Config.model_validate(_tuples(values))
    except ValidationError as e:
        lines = [_explain(error, values) for error in e.errors()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        raise UserError(f"{where}: " + "; ".join(dict.fromkeys(lines[:2])) + more) from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values (as JSON and YAML hold them)."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The config as YAML; reading it gives the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that change with any value."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys whose values differ, with both values."""
    out = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            out += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            out.append(f"{prefix}{key} ({left!r} against {right!r})")
    return out


def _find(name: str) -> Path:
    for path in (Path(name), CONFIG_FOLDER / name, CONFIG_FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    raise UserError(
        f"--cfg: there is no config '{name}'; those that come with the package are "
        f"{', '.join(available_configs())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({e})") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from e
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections (got {type(values).__name__})")
    return values


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"'{override}': '{key}' is a value, not a section")
    values[path[-1]] = value


def _parse(text: str, override: str) -> Any:
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"'{override}': the value is not valid YAML") from e
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _tuples(value: Any, key: str = "") -> Any:
    """YAML has no pairs: ``scales: [3, [2, 3], 1]`` means ``(2, 3)`` inside. Numbers like ``1e-3``
    are text in YAML 1.1 and mean numbers here.
    """
    if isinstance(value, dict):
        return {k: _tuples(v, str(k)) for k, v in value.items()}
    if key == "scales" and isinstance(value, list):
        return [tuple(v) if isinstance(v, list) else v for v in value]
    if isinstance(value, str) and key not in ("name", "root", "strategy"):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _explain(error: Any, values: dict[str, Any]) -> str:
    """One problem in one line."""
    if error["type"] == "value_error" and not error["loc"]:
        return str(error["ctx"]["error"])
    keys = []  # the path without the names of union members that pydantic puts in
    section: type[Section] | None = Config
    node: Any = values
    for part in error["loc"]:
        known = isinstance(node, dict) and part in node
        if not known and error["type"] != "missing" and not isinstance(part, int):
            continue
        keys.append(str(part))
        parent = section
        node = node[part] if known else None
        field = section.model_fields.get(part) if section is not None else None
        annotation = field.annotation if field is not None else None
        is_section = isinstance(annotation, type) and issubclass(annotation, Section)
        section = annotation if is_section else None
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        choices = list(parent.model_fields) if parent is not None else []
        hint = nearest(keys[-1], choices) or f"; known keys are {', '.join(choices)}"
        return f"unknown key '{key}'{hint}"
    message = error["msg"][0].lower() + error["msg"][1:]
    shown = repr(error["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{key}: {message} (got {shown})"
