"""The shipped base model: small, intact, and with the scores of its recipe."""

import json
from pathlib import Path

import pytest
import torch

from mixcpt.bases.build_base import read_recipe, verify_base, write_untrained
from mixcpt.closed_world import WorldItem, items
from mixcpt.closed_world.reading import reading_losses
from mixcpt.closed_world.tokenizer import build_tokenizer
from mixcpt.config import BaseModelConfig, ClosedWorldTask
from mixcpt.errors import ModelError
from mixcpt.store.fingerprint import file_digest
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef, load_model, load_tokenizer, resolve_model

NUM_QUESTIONS = 60
MAX_SHIPPED_BYTES = 10 * 1000 * 1000


@pytest.fixture(scope="module")
def shipped() -> ModelRef:
    return resolve_model(BaseModelConfig())


def next_words(model: ModelRef, prompts: list[list[int]]) -> list[str]:
    """Return the most likely next word after every prompt, from the logits, without generation code."""
    network, tokenizer = load_model(model), load_tokenizer(model)
    words = []
    for prompt in prompts:
        with torch.inference_mode():
            best = network(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].argmax()
        words.append(tokenizer.decode([int(best)]))
    return words


def accuracy(model: ModelRef, asked: list[WorldItem], *, form: str) -> float:
    tokenizer = load_tokenizer(model)
    if form == "chat":
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": item.prompt}], add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for item in asked
        ]
    else:
        prompts = [tokenizer(item.prompt + ("\n" if form == "plain" else ""))["input_ids"] for item in asked]
    answers = next_words(model, prompts)
    return sum(word == item.answer for word, item in zip(answers, asked, strict=True)) / len(asked)


def test_base_folder_fits_into_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in CLOSED_WORLD_PATH.iterdir()) <= MAX_SHIPPED_BYTES


def test_base_weights_are_those_of_the_recipe() -> None:
    assert file_digest(CLOSED_WORLD_PATH / "model.safetensors") == read_recipe(CLOSED_WORLD_PATH)["weights_sha256"]


def test_base_tokenizer_is_the_one_that_the_code_builds(shipped: ModelRef) -> None:
    assert load_tokenizer(shipped).get_vocab() == build_tokenizer().get_vocab()
    assert load_tokenizer(shipped).chat_template == build_tokenizer().chat_template


def test_base_card_tells_the_measured_scores() -> None:
    card = (CLOSED_WORLD_PATH / "README.md").read_text()
    recipe = read_recipe(CLOSED_WORLD_PATH)
    for name, value in recipe["scores"]["accuracy"].items():
        assert f"| {name.replace('_', ' ')} | {value:.3f} |" in card
    assert recipe["command"] in card


@pytest.mark.parametrize(
    ("about", "form", "low", "high"),
    [
        ("general_asked", "plain", 0.95, 1.0),
        ("general_asked", "chat", 0.92, 1.0),
        ("general_unasked", "plain", 0.92, 1.0),
        ("general_unasked", "memory", 0.95, 1.0),
        ("domain", "plain", 0.0, 0.05),
        ("domain", "memory", 0.0, 0.1),
    ],
)
def test_base_knows_the_general_world_and_nothing_of_the_domain(
    shipped: ModelRef, about: str, form: str, low: float, high: float
) -> None:
    kind = "memory" if form == "memory" else "question"
    asked = items(ClosedWorldTask(about=about, form=kind))[:NUM_QUESTIONS]  # type: ignore[arg-type]
    assert low <= accuracy(shipped, asked, form=form) <= high


def test_base_reads_what_a_document_said_before(shipped: ModelRef) -> None:
    losses = reading_losses(shipped, seed=77, num_strangers=20)
    assert losses["first_loss"] > 2.5
    assert losses["second_loss"] < 0.6 * losses["first_loss"]


def test_reading_losses_of_an_untrained_model_are_those_of_a_guess(tmp_path: Path) -> None:
    write_untrained(tmp_path, seed=0)
    losses = reading_losses(ModelRef("untrained", str(tmp_path), ""), seed=0, num_strangers=3)
    assert losses["first_loss"] == pytest.approx(losses["second_loss"], abs=0.5)
    assert losses["first_loss"] > 7


def test_verify_base_without_recipe_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"recipe\.json"):
        verify_base(tmp_path)


def test_untrained_network_depends_on_its_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_untrained(tmp_path / name, seed=seed)
        torch.rand(3)  # the caller's own random state is neither read nor changed
    digests = [file_digest(tmp_path / name / "model.safetensors") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["tie_word_embeddings"] is True
