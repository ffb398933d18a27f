"""Loading of YAML files with dotted overrides; all problems are reported together, with file and key path."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Settings
from mixcpt.config.compare import AdviseConfig, CompareConfig
from mixcpt.config.evaluate import headline_problems
from mixcpt.config.readapt import CorpusConfig, ReadaptConfig
from mixcpt.config.yaml_text import MAX_BYTES, BadYaml, parse
from mixcpt.errors import ConfigError

T = TypeVar("T", bound=Settings)

_KINDS: dict[str, type[Settings]] = {
    "source": CorpusConfig,
    "contenders": CompareConfig,
    "settings": AdviseConfig,
    "adapt": ReadaptConfig,
    "gates": ReadaptConfig,
}
"""Settings classes by the first of these keys that a file has."""


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> AdaptConfig:
    """Return the settings of a run; arguments and errors as in `load_settings`."""
    return load_settings(AdaptConfig, path, overrides)


def load_any(path: Path | str, overrides: Iterable[str] = ()) -> Settings:
    """Return the settings of a run, rounds, a corpus, a comparison or a search; the keys of the YAML file decide."""
    data = _read(Path(path))
    settings = next((_KINDS[key] for key in _KINDS if key in data), AdaptConfig)
    return load_settings(settings, path, overrides)


def load_settings(settings: type[T], path: Path | str | None, overrides: Iterable[str] = ()) -> T:
    """Return the settings of a YAML file (the defaults if `path` is None) with `KEY.PATH=VALUE` overrides.

    Raises:
        ConfigError: If the settings are not valid; lists every problem with its key path.
    """
    origin = str(path) if path else "the embedded default"
    config = _validate(_read(Path(path)) if path else {}, origin, settings)
    overrides = tuple(overrides)
    if not overrides:
        return _require_headlines(config, origin)
    data: Any = config.model_dump(mode="json")  # complete, so that an override can change a default
    for override in overrides:
        data = _override(data, override)
    origin = f"{origin} with {', '.join(f'--set {override}' for override in overrides)}"
    return _require_headlines(_validate(data, origin, settings), origin)


def _require_headlines(config: T, origin: str) -> T:
    """Return settings whose headline tasks have the right groups; records of earlier versions are not checked."""
    run = config.adapt if isinstance(config, ReadaptConfig) else config
    problems = list(headline_problems(run.evaluate)) if isinstance(run, AdaptConfig) else []
    if problems:
        key = "adapt.evaluate" if isinstance(config, ReadaptConfig) else "evaluate"
        raise ConfigError("\n".join([f"{origin}: {key}.{problem}" for problem in problems]))
    return config


def _validate(data: dict[str, Any], origin: str, settings: type[T]) -> T:
    try:
        return settings.model_validate(data)
    except ValidationError as error:
        problems = [f"  {_key_path(item['loc'], data)}: {_explain(item)}" for item in _causes(error)]
        plural = "s" if len(problems) > 1 else ""
        raise ConfigError(
            "\n".join([f"{origin} has {len(problems)} problem{plural}:", *problems]),
            "`mixcpt init --reference` writes a file with every setting explained",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes; settings have at most {MAX_BYTES:,}", "name another file"
            )
        data = parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "`mixcpt init` writes a configuration to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except BadYaml as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} contains a {type(data).__name__} instead of settings (key: value)")
    return data


def _override(data: Mapping[str, Any], override: str) -> dict[str, Any]:
    key_path, equals, text = override.partition("=")
    keys = key_path.strip().split(".")
    if not equals or not all(keys):
        problem = f"--set {override!r} is not of the form KEY.PATH=VALUE"
        raise ConfigError(problem, "e.g. --set pretrain.method.alpha=0.3")
    try:
        value = parse(text)
    except BadYaml as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    changed: dict[str, Any] = _with_value(data, keys, value, key_path)
    return changed


def _with_value(node: Any, keys: list[str], value: Any, key_path: str) -> Any:
    """Return a copy of `node` with the value at `keys`.

    A number is an index into a list. A new `kind` resets its section to the defaults of that kind.
    """
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(f"--set {key_path}: {key!r} is not an index of a list with {len(node)} items")
        return [
            (_with_value(item, rest, value, key_path) if rest else value) if index == int(key) else item
            for index, item in enumerate(node)
        ]
    if not isinstance(node, Mapping):
        raise ConfigError(f"--set {key_path}: the plain value {node!r} has no key {key!r}")
    if key == "kind" and not rest and node.get("kind") != value:
        return {"kind": value}
    return dict(node) | {key: _with_value(node.get(key, {}), rest, value, key_path) if rest else value}


def _key_path(location: tuple[int | str, ...], data: Any) -> str:
    """Return for instance `curation.sources[1].paths`, without the union tags that pydantic inserts."""
    path = ""
    node = data
    for part in location:
        if isinstance(node, Mapping) and part not in node and node.get("kind") == part:
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            node = node[part]
    return path or "(whole file)"


def _causes(error: ValidationError) -> Iterator[Any]:
    """Yield the problems; skip "too short" for a list from which pydantic has removed invalid items."""
    locations = [item["loc"] for item in error.errors()]
    for item in error.errors():
        depth = len(item["loc"])
        inside = [location for location in locations if len(location) > depth and location[:depth] == item["loc"]]
        if item["type"] != "too_short" or not inside:
            yield item


def _explain(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("missing", "value_error") or isinstance(item["input"], dict | list):
        return str(message)
    return f"{message} (found {item['input']!r})"
