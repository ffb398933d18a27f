"""Changes over several trainings: paired by seed and question, separate from the luck of one training."""

from pathlib import Path

import numpy as np
import pytest

from mixcpt.errors import DataError
from mixcpt.evaluate.statistics.across_seeds import across_seeds
from mixcpt.store.artifacts import ArtifactRef
from tests.unit.evaluation_artifacts import evaluation

ITEMS = 60


def trained(folder: Path, name: str, answers: np.ndarray, **how: str) -> ArtifactRef:
    rows = [(f"i{number:02}", float(value), 1.0) for number, value in enumerate(answers)]
    return evaluation(folder, name, {"use": rows}, **how)  # type: ignore[arg-type]


def test_over_seeds_against_one_base_has_every_seed_and_their_mean(tmp_path: Path) -> None:
    base = trained(tmp_path, "base", np.zeros(ITEMS))
    shares = (30, 33, 36)
    models = [trained(tmp_path, f"m{share}", np.arange(ITEMS) < share) for share in shares]
    (change,) = across_seeds([base], models, confidence=0.95)
    assert change.values == tuple(share / ITEMS for share in shares)
    assert change.value == change.delta == pytest.approx(33 / ITEMS)
    assert change.between_seeds == pytest.approx(3 / ITEMS)
    assert change.low < 30 / ITEMS < 36 / ITEMS < change.high
    assert (change.base, change.n, change.passages) == (0.0, ITEMS, ITEMS)


def test_over_seeds_intervals_of_shares_stay_between_0_and_1(tmp_path: Path) -> None:
    base = trained(tmp_path, "base", np.arange(ITEMS) < 3)
    models = [trained(tmp_path, f"m{share}", np.arange(ITEMS) < share) for share in (54, 60, 60)]
    (change,) = across_seeds([base], models, confidence=0.95)
    assert change.low < change.delta < change.high == pytest.approx(1 - 3 / ITEMS)


def test_over_seeds_pairs_two_methods_by_seed(tmp_path: Path) -> None:
    """Both methods are lucky and unlucky with the same seeds, so their difference is much surer than either."""
    rng = np.random.default_rng(0)
    luck = (10, 25, 40)
    first = [trained(tmp_path, f"a{share}", np.arange(ITEMS) < share) for share in luck]
    second = [trained(tmp_path, f"b{share}", np.arange(ITEMS) < share + 9 + rng.integers(2)) for share in luck]
    (paired,) = across_seeds(first, second, confidence=0.95)
    (alone,) = across_seeds([trained(tmp_path, "base", np.zeros(ITEMS))], second, confidence=0.95)
    assert paired.low > 0
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_over_seeds_refuses_evaluations_under_different_conditions(tmp_path: Path) -> None:
    base = trained(tmp_path, "base", np.zeros(ITEMS))
    models = [trained(tmp_path, "one", np.ones(ITEMS)), trained(tmp_path, "two", np.ones(ITEMS), split="all")]
    with pytest.raises(DataError, match="split is"):
        across_seeds([base], models, confidence=0.95)
