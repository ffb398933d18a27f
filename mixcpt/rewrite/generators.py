"""The generators of a configuration: their identity, and how they write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mixcpt.config import BaseModelConfig
from mixcpt.config.rewrite import EndpointGenerator, FilesGenerator, ModelGenerator, RewriteConfig
from mixcpt.errors import DataError
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.requests import Request
from mixcpt.store.fingerprint import file_digest, fingerprint
from mixcpt.store.models import ModelRef, resolve_model


@runtime_checkable
class Texts(Protocol):
    """Writer of texts."""

    def answers(self, requests: Mapping[str, Request]) -> Iterator[list[Generated]]:
        """Yield the texts of requests, by key, as they are ready."""


def generator_identity(config: RewriteConfig, base: ModelRef) -> str:
    """Return the identity of a generator with its sampling: equal requests to it give equal texts.

    The address of a server is not part of it, nor are batches, prices and limits.

    Raises:
        MixcptError: If a file of texts cannot be read, or another model cannot be found.
    """
    generator = config.generator
    identity: dict[str, Any] = {"kind": generator.kind, "temperature": config.temperature, "top_p": config.top_p}
    match generator:
        case EndpointGenerator():
            identity["model"] = generator.model
        case FilesGenerator():
            identity["files"] = [_digest_of_texts(Path(path)) for path in generator.paths]
        case _:
            # The base model and another model with the same weights write the same texts.
            identity |= {"kind": "model", "model": _local_model(config, base).digest}
    return fingerprint(identity)


def open_generator(config: RewriteConfig, base: ModelRef) -> Texts:
    """Load a model or connect to a server."""
    generator = config.generator
    if isinstance(generator, EndpointGenerator):
        from mixcpt.rewrite.endpoint import EndpointTexts

        return EndpointTexts(generator, temperature=config.temperature, top_p=config.top_p)
    if isinstance(generator, FilesGenerator):
        raise TypeError("texts from files are read, not generated")
    from mixcpt.rewrite.local import LocalTexts

    model = _local_model(config, base)
    return LocalTexts(model, temperature=config.temperature, top_p=config.top_p, batch_texts=generator.batch_texts)


def _digest_of_texts(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"rewrite.generator.paths: {path} cannot be read: {error}", "check the path") from error


def _local_model(config: RewriteConfig, base: ModelRef) -> ModelRef:
    generator = config.generator
    if isinstance(generator, ModelGenerator):
        return resolve_model(BaseModelConfig(model=generator.model, revision=generator.revision))
    return base
