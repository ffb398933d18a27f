"""Check of the names of a run."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject

_RESERVED = {
    "base": "the report and the last line of a run name the base model so",
    "seconds": "the last line of a run has the duration under this name",
    "closed-world": "commands name the small model that ships with mixcpt so",
}


def is_reserved(name: str) -> bool:
    """Return whether a run cannot have this name."""
    return name in _RESERVED


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a problem if the name of the run is reserved."""
    if reason := _RESERVED.get(subject.config.name):
        name = subject.config.name
        yield Finding(
            problem=f"name: {name} is reserved: {reason}", remedy=f"choose another name for the run, such as {name}-run"
        )
