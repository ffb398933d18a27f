"""Check the forms and the generator of rewriting."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mixcpt.checks.findings import Finding, Subject
from mixcpt.config import BaseModelConfig
from mixcpt.config.rewrite import EndpointGenerator, FilesGenerator, ModelGenerator, RewriteConfig
from mixcpt.errors import MixcptError
from mixcpt.rewrite.forms import load_forms, load_judge
from mixcpt.store.models import find_model


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each form that cannot be read, and for a generator that cannot be used."""
    config = subject.config.rewrite
    if not config.forms:
        return
    checks: list[Callable[[], object]] = [lambda: load_forms(config.forms)]
    if config.faithfulness.judge != "none":
        checks.append(lambda: load_judge(config.faithfulness.judge_form))
    if isinstance(generator := config.generator, ModelGenerator):
        checks.append(lambda: find_model(BaseModelConfig(model=generator.model, revision=generator.revision)))
    for attempt in checks:
        try:
            attempt()
        except MixcptError as error:
            yield _about_rewriting(error)
    yield from _generator_findings(config)


def _about_rewriting(error: MixcptError) -> Finding:
    problem = error.problem if error.problem.startswith("rewrite.") else f"rewrite.generator.model: {error.problem}"
    return Finding(problem=problem.replace("base.model: ", ""), remedy=error.hint)


def _generator_findings(config: RewriteConfig) -> Iterator[Finding]:
    generator = config.generator
    if isinstance(generator, EndpointGenerator) and (name := generator.key_variable) and name not in os.environ:
        yield Finding(
            problem=f"rewrite.generator.key_variable: the environment variable {name} is not set here",
            remedy=f"export {name} in the environment of the worker that runs the stage",
            is_warning=True,
        )
    if isinstance(generator, FilesGenerator):
        for index, path in enumerate(generator.paths):
            if not Path(path).is_file():
                yield Finding(
                    problem=f"rewrite.generator.paths[{index}]: there is no file {path}", remedy="check the path"
                )
