"""Operations of a chat template that would need unbounded time or memory in one step, which no time limit can stop."""

import re
from collections.abc import Iterator

_MAX_NUMBER = 1_000_000
_MAX_FACTOR = 10_000
_LARGE_WIDTH = re.compile(r"(?:%[^%a-zA-Z]*|\{[^{}]*)\d{7,}")


def oversized(template: str) -> str:
    """Return the first operation of a Jinja template that can be too large, with its line; empty if there is none."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # the tags of `generation` mark answers, and this parser does not know them
    text = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (TemplateError, RecursionError, ValueError):
        return ""  # rendering reports it with its line
    return next(_operations(tree), "")


def _operations(tree: object) -> Iterator[str]:
    from jinja2 import nodes

    assert isinstance(tree, nodes.Template)
    for node in tree.find_all((nodes.Pow, nodes.Mul, nodes.Const)):
        if isinstance(node, nodes.Pow):
            yield f"a power (**) in line {node.lineno}"
        elif isinstance(node, nodes.Mul):
            if any(_is_above(part, _MAX_FACTOR) for part in (node.left, node.right)):
                yield f"a product with a number above {_MAX_FACTOR:,} in line {node.lineno}"
        elif _is_above(node, _MAX_NUMBER):
            yield f"a number above {_MAX_NUMBER:,} in line {node.lineno}"
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and _LARGE_WIDTH.search(node.value):
            yield f"a text with a width above {_MAX_NUMBER:,} in line {node.lineno}"


def _is_above(node: object, limit: int) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Const) and isinstance(node.value, int | float) and node.value > limit
