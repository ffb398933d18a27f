"""The libraries of `tracking.also` are installed."""

from collections.abc import Iterator
from importlib.util import find_spec

from mixcpt.checks.findings import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem for each tool of `tracking.also` whose library is missing."""
    for name in subject.config.tracking.also:
        if find_spec(name) is None:
            yield Finding(
                problem=f"tracking.also has {name}, but its library is not installed",
                remedy=f"pip install {name}, or remove {name} from tracking.also",
            )
