"""Markdown of the outcomes of `families.py`: a table of differences, and the reasons of the other outcomes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

_COLUMNS = ("cpt full", "cpt lora", "lssd full", "lssd lora", "disc full", "disc lora")
_MAX_REASON = 160
_TITLES = {
    "refused": "Refused",
    "differs": "Losses that differ",
    "failed": "Failed",
    "crashed": "Ended with their process",
    "not built": "Not compared, because transformers builds no tiny model of them with the settings that were tried",
}

Outcomes = Mapping[str, Mapping[str, Any]]


def table_of(data: Mapping[str, Any]) -> str:
    """Return the Markdown of a result file."""
    families: Mapping[str, Outcomes] = data["families"]
    trained = {name: result for name, result in families.items() if "all" not in result}
    text = [name for name in trained if name not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    vision = [name for name in trained if name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    parts = [
        f"{_summary(families)} Versions: {versions}.",
        "The figures are the largest relative differences of a loss between the trainer and the plain loop.",
        "### Text",
        *_table(text, families),
        "### Text part of models that also read images",
        *_table(vision, families),
        *_reasons(families),
    ]
    return "\n\n".join(parts)


def _summary(families: Mapping[str, Outcomes]) -> str:
    trainings = [
        outcome["outcome"] for result in families.values() if "all" not in result for outcome in result.values()
    ]
    others = Counter(result["all"]["outcome"] for result in families.values() if "all" in result)
    num_trained = len(families) - sum(others.values())
    listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(trainings).items()))
    rest = ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items()))
    return f"{num_trained} families were trained in {len(trainings)} trainings: {listed}. The other families: {rest}."


def _table(names: list[str], families: Mapping[str, Outcomes]) -> list[str]:
    if not names:
        return ["None."]
    lines = [f"| family | rows | {' | '.join(_COLUMNS)} |", f"|---|---|{'---|' * len(_COLUMNS)}"]
    for name in names:
        result = families[name]
        is_apart = any(outcome.get("is_apart") for outcome in result.values())
        cells = [_cell(result.get(column)) for column in _COLUMNS]
        lines.append(f"| {name} | {'one document' if is_apart else 'packed'} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def _cell(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return ""
    return f"{outcome['difference']:.0e}" if outcome["outcome"] == "equal" else str(outcome["outcome"])


def _reasons(families: Mapping[str, Outcomes]) -> Iterator[str]:
    """Yield a list of reasons per outcome, each with its families."""
    groups: dict[str, dict[str, dict[str, list[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for family, result in families.items():
        for training, outcome in result.items():
            if outcome["outcome"] != "equal":
                groups[outcome["outcome"]][_short(outcome.get("reason", ""))][family].append(training)
    for outcome, title in _TITLES.items():
        if reasons := groups.get(outcome):
            lines = [f"* {_names(found)}: {reason}" for reason, found in sorted(reasons.items(), key=_first_name)]
            yield f"### {title}\n\n" + "\n".join(lines)


def _first_name(item: tuple[str, dict[str, list[str]]]) -> str:
    return min(item[1])


def _names(found: Mapping[str, list[str]]) -> str:
    trainings = {family: f" ({', '.join(names)})" if names != ["all"] else "" for family, names in found.items()}
    return ", ".join(family + text for family, text in trainings.items())


def _short(reason: str) -> str:
    """Return a reason without the name of the class in front of it, so that equal reasons meet."""
    first, _, rest = reason.partition(" ")
    is_class = first.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Decoder", "Text2Text"))
    text = f"it {rest}" if is_class else reason
    text = text.replace("|", "/").replace("<", "").replace(">", "")
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
