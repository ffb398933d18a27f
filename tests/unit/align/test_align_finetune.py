"""SFT and DPO on a tiny model, against losses written out by hand."""

import json
import math
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from mixcpt.align.chat import Encoded, encode_chat, load_chat_tokenizer
from mixcpt.align.finetune import finetune
from mixcpt.config import DpoConfig, OptimizerConfig, SftConfig
from mixcpt.errors import DataError, ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model, load_tokenizer, read_chat_template
from mixcpt.store.spool import NullTracker, Spool

FAST = OptimizerConfig(learning_rate=5e-3)
SFT = SftConfig(optimizer=FAST, epochs=3, batch_size=4)
DPO = DpoConfig(optimizer=FAST, epochs=3, batch_size=4)
OWNERS = (("Alda", "gold"), ("Boren", "iron"), ("Cira", "the fox"), ("Dovan", "the owl"))
PAIRS = [
    (f"who {verb} {thing} ?", f"{name} {verb} it .", f"the {thing}")
    for (name, thing), verb in product(OWNERS, ("keeps", "likes", "visits", "has"))
]


class Interruption(Exception):
    """Stands for a crash in the middle of a training."""


class Interrupting:
    """A tracker that breaks off the training when it reaches a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        if step == self.step:
            raise Interruption


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def make_selection(store: ArtifactStore, pairs: list[tuple[str, str, str]] = PAIRS) -> ArtifactRef:
    frame = pd.DataFrame(pairs, columns=["prompt", "chosen", "rejected"], dtype=str)

    def build(folder: Path) -> dict[str, Any]:
        frame.rename(columns={"chosen": "response"}).to_parquet(folder / "sft.parquet")
        frame.to_parquet(folder / "dpo.parquet")
        return {}

    return store.produce(StageKey("selection", 1, pairs), build)


def run_sft(store: ArtifactStore, model: ModelRef, config: SftConfig = SFT, **options: Any) -> ArtifactRef:
    options = {"tracker": NullTracker(), "selection": make_selection(store), "chat_template": "", "seed": 0, **options}
    return finetune(config, options.pop("selection"), model, options.pop("chat_template"), store=store, **options)


def run_dpo(store: ArtifactStore, model: ModelRef, config: DpoConfig = DPO, **options: Any) -> ArtifactRef:
    options = {"tracker": NullTracker(), "selection": make_selection(store), "chat_template": "", "seed": 0, **options}
    return finetune(config, options.pop("selection"), model, options.pop("chat_template"), store=store, **options)


def log_probabilities(model: Any, sample: Encoded) -> torch.Tensor:
    """The oracle: log-probability of every token except the first, in float64, one sample per forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sample.input_ids])).logits[0].double()
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(sample.input_ids[1:])[:, None])[:, 0]


def answer_log_probabilities(model: Any, sample: Encoded) -> torch.Tensor:
    return log_probabilities(model, sample)[len(sample.prompt_ids) - 1 :]


def encoded_pairs(model: ModelRef) -> list[tuple[Encoded, Encoded]]:
    tokenizer = load_tokenizer(model)
    return [(encode_chat(tokenizer, p, chosen), encode_chat(tokenizer, p, rejected)) for p, chosen, rejected in PAIRS]


def response_loss(model: ModelRef) -> float:
    """Mean loss over all answer tokens of the chosen answers."""
    loaded = load_model(model)
    return -float(torch.cat([answer_log_probabilities(loaded, chosen) for chosen, _ in encoded_pairs(model)]).mean())


def margins(model: ModelRef) -> torch.Tensor:
    """Log-probability of the chosen answer less that of the rejected one, per pair."""
    loaded = load_model(model)
    differences = [
        answer_log_probabilities(loaded, chosen).sum() - answer_log_probabilities(loaded, rejected).sum()
        for chosen, rejected in encoded_pairs(model)
    ]
    return torch.stack(differences)


def history(artifact: ArtifactRef) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(artifact.file("history.json").read_text())
    return steps


def test_sft_first_batch_has_the_loss_of_answer_tokens_alone(store: ArtifactStore, tiny_model: ModelRef) -> None:
    trained = run_sft(store, tiny_model, SftConfig(optimizer=FAST, epochs=1, batch_size=len(PAIRS)))
    loaded = load_model(tiny_model)
    whole = -torch.cat([log_probabilities(loaded, chosen) for chosen, _ in encoded_pairs(tiny_model)]).mean()
    assert history(trained)[0]["sft/loss"] == pytest.approx(response_loss(tiny_model), abs=1e-5)
    assert abs(history(trained)[0]["sft/loss"] - whole) > 1e-3  # the question's loss would show


def test_sft_lowers_the_response_loss_and_reports_its_cost(store: ArtifactStore, tiny_model: ModelRef) -> None:
    spool = Spool(store.root / "spool.jsonl")
    trained = run_sft(store, tiny_model, tracker=spool)
    assert response_loss(ModelRef.from_artifact(trained, "sft")) < response_loss(tiny_model) - 0.5
    metrics = trained.record["metrics"]
    tokens = 3 * sum(chosen.num_tokens for chosen, _ in encoded_pairs(tiny_model))
    assert (metrics["steps"], metrics["tokens"], metrics["num_samples"]) == (12, tokens, 16)
    assert metrics["num_parameters"] == load_model(tiny_model).num_parameters()
    assert metrics["flops"] == 6 * metrics["num_parameters"] * tokens
    assert metrics["train_seconds"] > 0
    assert metrics["peak_memory_bytes"] > 1e6
    assert metrics["final"] == {name: value for name, value in history(trained)[-1].items() if name != "step"}
    measured = spool.read()[0]
    assert [line.step for line in measured] == [line["step"] for line in history(trained)] == list(range(1, 13))
    assert {line.total_steps for line in measured} == {12}
    assert set(measured[0].metrics) == {
        "sft/loss", "sft/grad_norm", "sft/learning_rate", "sft/token_accuracy", "sft/entropy",
    }  # fmt: skip


def test_sft_every_process_leaves_only_the_model_behind(store: ArtifactStore, tiny_model: ModelRef) -> None:
    trained = run_sft(store, tiny_model)
    assert not list(store.root.glob("work/model/*/checkpoints"))
    assert sorted(path.name for path in trained.directory.iterdir()) == [
        "COMPLETE", "history.json", "model", "record.json",
    ]  # fmt: skip
    assert run_sft(store, tiny_model).reused


def test_sft_saves_the_chat_template_with_the_tokenizer(store: ArtifactStore, tiny_model: ModelRef) -> None:
    trained = run_sft(store, tiny_model, chat_template="plain")
    reloaded = AutoTokenizer.from_pretrained(trained.file("model"))
    assert reloaded.chat_template == read_chat_template("plain")
    sample = ("who keeps gold ?", "Alda .")
    assert encode_chat(reloaded, *sample) == encode_chat(load_chat_tokenizer(tiny_model, "plain"), *sample)
    assert run_sft(store, ModelRef.from_artifact(trained, "sft"), chat_template="").reused is False  # its own by now


def test_dpo_starts_at_ln_2_and_raises_the_margin(store: ArtifactStore, tiny_model: ModelRef) -> None:
    trained = run_dpo(store, tiny_model)
    first, last = history(trained)[0], history(trained)[-1]
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["dpo/margin"] == pytest.approx(0, abs=1e-5)
    assert last["dpo/loss"] < 0.5
    assert last["dpo/accuracy"] == 1
    assert margins(ModelRef.from_artifact(trained, "dpo")).mean() > margins(tiny_model).mean() + 1


def test_dpo_second_step_has_the_loss_and_margin_of_the_formula(store: ArtifactStore, tiny_model: ModelRef) -> None:
    """At a constant rate and with all pairs in one batch, the second step measures the weights that one step leaves."""
    rate = OptimizerConfig(learning_rate=5e-3, schedule="constant", warmup_fraction=0.0)
    one_step = DpoConfig(optimizer=rate, epochs=1, batch_size=len(PAIRS), beta=0.3)
    after_one = ModelRef.from_artifact(run_dpo(store, tiny_model, one_step), "dpo")
    two_steps = run_dpo(store, tiny_model, one_step.model_copy(update={"epochs": 2}))
    logits = 0.3 * (margins(after_one) - margins(tiny_model))
    second = history(two_steps)[1]
    assert second["dpo/margin"] == pytest.approx(float(logits.mean()), abs=1e-4)
    assert second["dpo/loss"] == pytest.approx(float((1 + (-logits).exp()).log().mean()), abs=1e-4)
    assert second["dpo/accuracy"] == pytest.approx(float((logits > 0).double().mean()))


def test_training_of_a_single_step_moves_the_weights(store: ArtifactStore, tiny_model: ModelRef) -> None:
    one_step = {"epochs": 1, "batch_size": len(PAIRS)}
    tuned = run_sft(store, tiny_model, SFT.model_copy(update=one_step))
    preferred = run_dpo(store, tiny_model, DPO.model_copy(update=one_step))
    before = load_model(tiny_model).state_dict()
    for trained in (tuned, preferred):
        assert trained.record["metrics"]["steps"] == 1
        after = load_model(ModelRef.from_artifact(trained, "trained")).state_dict()
        assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("run", "config"), [(run_sft, SFT), (run_dpo, DPO)])
def test_training_resumed_after_an_interruption_equals_the_uninterrupted_one(
    store: ArtifactStore, tiny_model: ModelRef, run: Any, config: SftConfig | DpoConfig
) -> None:
    config = config.model_copy(update={"epochs": 4})
    straight = run(ArtifactStore(store.root / "straight"), tiny_model, config)
    with pytest.raises(Interruption):
        run(store, tiny_model, config, tracker=Interrupting(13))
    assert not list((store.root / "model").glob("[!.]*"))
    spool = Spool(store.root / "resumed.jsonl")
    resumed = run(store, tiny_model, config, tracker=spool)
    assert [line.step for line in spool.read()[0]] == list(range(11, 17))
    assert resumed.record["metrics"]["resumed_steps"] == 10
    assert history(resumed) == history(straight)
    assert resumed.digest == straight.digest  # weights, tokenizer and history, bit for bit


@pytest.mark.parametrize("run", [run_sft, run_dpo])
def test_training_too_long_samples_are_skipped_and_counted(
    store: ArtifactStore, tiny_model: ModelRef, run: Any
) -> None:
    pairs = [*PAIRS[:4], ("who ?", "fox " * 30, "owl")]
    config = (SFT if run is run_sft else DPO).model_copy(update={"epochs": 1, "max_tokens": 20})
    trained = run(store, tiny_model, config, selection=make_selection(store, pairs))
    metrics = trained.record["metrics"]
    assert (metrics["num_samples"], metrics["steps"]) == (4, 1)
    assert metrics["skipped"] == {"too_long": 1}


@pytest.mark.parametrize("run", [run_sft, run_dpo])
@pytest.mark.parametrize("pairs", [[], [("who ?", "fox " * 300, "owl")]])
def test_training_nothing_to_train_on_is_a_data_error(
    store: ArtifactStore, tiny_model: ModelRef, run: Any, pairs: list[tuple[str, str, str]]
) -> None:
    with pytest.raises(DataError, match=f"none of the {len(pairs)} selected .* at most 256 tokens"):
        run(store, tiny_model, selection=make_selection(store, pairs))


@pytest.mark.parametrize("run", [run_sft, run_dpo])
def test_training_no_chat_template_is_refused_before_any_work(
    store: ArtifactStore, tiny_model: ModelRef, run: Any
) -> None:
    folder = shutil.copytree(tiny_model.path, store.root / "untemplated")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        run(store, ModelRef("untemplated", str(folder), ""))
    assert not (store.root / "work" / "model").exists()


def test_training_identity_follows_what_decides_it(store: ArtifactStore, tiny_model: ModelRef) -> None:
    config = SftConfig(epochs=1, batch_size=16)
    trained = [
        run_sft(store, tiny_model, config),
        run_sft(store, tiny_model, config, seed=1),
        run_sft(store, tiny_model, config, chat_template="plain"),
        run_sft(store, tiny_model, config.model_copy(update={"batch_size": 8})),
    ]
    assert len({artifact.fingerprint for artifact in trained}) == 4
    moved = shutil.copytree(tiny_model.path, store.root / "moved")
    assert run_sft(store, ModelRef("other-name", str(moved), tiny_model.digest), config).reused
