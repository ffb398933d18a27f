"""Findings about the run in a comparison, a search or rounds name the keys of that file."""

import pytest

from mixcpt.checks.findings import Finding
from mixcpt.checks.keys import place_in, placed
from mixcpt.config import AdaptConfig, AdviseConfig, CompareConfig, ReadaptConfig, Settings

OWN = {"pretrain": {"optimizer": {"learning_rate": 1e-3}}}
COMPARISON = CompareConfig.model_validate(
    {"contenders": [{"name": "first", "settings": OWN}, {"name": "second", "settings": {}}]}
)
TEXT = "{0}curation.sources[0].fields.text: no field in base.yaml, docs/evaluate.tasks, {0}evaluate.tasks[1].path"


@pytest.mark.parametrize(
    ("config", "prefix"),
    [(AdaptConfig(), ""), (COMPARISON, "settings."), (AdviseConfig(), "settings."), (ReadaptConfig(), "adapt.")],
    ids=["run", "comparison", "search", "rounds"],
)
def test_keys_in_problem_and_remedy_are_those_of_the_file(config: Settings, prefix: str) -> None:
    remedy = "set {0}base.chat_template: plain; or set {0}pretrain.micro_batch_rows to 4."
    found = placed(Finding(problem=TEXT.format(""), remedy=remedy.format(""), is_warning=True), place_in(config))
    assert found.problem == TEXT.format(prefix)
    assert found.remedy == remedy.format(prefix)
    assert found.is_warning


def test_key_that_the_first_contender_sets_is_named_there() -> None:
    found = placed(Finding(problem="pretrain.optimizer.learning_rate is 1"), place_in(COMPARISON))
    assert found.problem == "contenders[0].settings.pretrain.optimizer.learning_rate is 1"
