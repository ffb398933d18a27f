"""Selection on a model that was taught which samples are easy, against losses computed one by one."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mixcpt.align.chat import Encoded, encode_chat, encode_plain, load_chat_tokenizer
from mixcpt.align.scoring import response_losses
from mixcpt.align.selection import select
from mixcpt.config import BaseModelConfig, SelectionConfig
from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model, resolve_model
from mixcpt.store.spool import NullTracker, Spool

NAMES = ("Alda", "Boren", "Cira", "Dovan", "Elin", "Faro")
COLOURS = ("blue", "red", "green", "gold", "iron", "metal")
KNOWN = [
    ("what colour has " + name + " ?", f"{name} has {colour} .") for name, colour in zip(NAMES, COLOURS, strict=True)
]
EASY = [
    ("who keeps " + colour + " ?", f"{name} keeps it , {colour} .") for name, colour in zip(NAMES, COLOURS, strict=True)
]
HARD = [(f"where lives {name} ?", f"in {colour} of tower a is") for name, colour in product(NAMES, COLOURS[:2])]
SAMPLES = {f"known{i}": sample for i, sample in enumerate(KNOWN)}
SAMPLES |= {f"easy{i}": sample for i, sample in enumerate(EASY)}
SAMPLES |= {f"hard{i}": sample for i, sample in enumerate(HARD)}


@pytest.fixture(scope="module")
def taught_model(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model that answers KNOWN as plain text but not in the chat form, and EASY only in the chat form."""
    tokenizer = load_chat_tokenizer(tiny_model, "")
    texts = [encode_plain(tokenizer, *sample).input_ids for sample in KNOWN]
    texts += [encode_chat(tokenizer, *sample).input_ids for sample in EASY]
    texts += [encode_chat(tokenizer, prompt, "owl owl owl").input_ids for prompt, _ in KNOWN]
    longest = max(len(text) for text in texts)
    input_ids = torch.tensor([text + [tokenizer.pad_token_id] * (longest - len(text)) for text in texts])
    labels = input_ids.masked_fill(input_ids == tokenizer.pad_token_id, -100)
    model = load_model(tiny_model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=input_ids, labels=labels).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("taught") / "model"
    shutil.copytree(tiny_model.path, folder)
    model.save_pretrained(folder)
    return resolve_model(BaseModelConfig(model=str(folder)))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def make_corpus(store: ArtifactStore, samples: dict[str, tuple[str, str]], **overrides: Any) -> ArtifactRef:
    """Publish a corpus with these instructions, and with preferences that have the same rejected answer."""
    rows = [{"id": key, "source": "hand", "prompt": prompt, "answer": text} for key, (prompt, text) in samples.items()]
    frame = pd.DataFrame(rows, columns=["id", "source", "prompt", "answer"], dtype=str)
    preferences = frame.rename(columns={"answer": "chosen"}).assign(rejected="the river .")

    def build(folder: Path) -> dict[str, Any]:
        frame.rename(columns={"answer": "response"}).to_parquet(folder / "instructions.parquet")
        preferences.assign(**overrides).to_parquet(folder / "preferences.parquet")
        return {}

    return store.produce(StageKey("corpus", 1, [*samples.values(), *overrides.values()]), build)


def run_select(
    store: ArtifactStore, model: ModelRef, corpus: ArtifactRef, seed: int = 0, **settings: Any
) -> ArtifactRef:
    config = SelectionConfig(**{"num_instructions": 6, "num_preferences": 6, **settings})
    return select(config, corpus, model, "", seed=seed, store=store, tracker=NullTracker())


def ids(selection: ArtifactRef, name: str = "sft") -> list[str]:
    return list(pd.read_parquet(selection.file(f"{name}.parquet"))["id"])


def loss_alone(model: Any, sample: Encoded) -> float:
    """The oracle: one sample in one forward, in float64, the plain formula."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sample.input_ids])).logits[0].double()
    start = len(sample.prompt_ids)
    chosen = [logits[i - 1].log_softmax(-1)[sample.input_ids[i]].item() for i in range(start, sample.num_tokens)]
    return -sum(chosen) / len(chosen)


def test_response_losses_batches_of_ragged_samples_equal_one_by_one(
    tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model)
    generator = np.random.default_rng(0)
    samples = [
        Encoded(generator.integers(0, 40, prompt).tolist(), generator.integers(0, 40, response).tolist())
        for prompt, response in generator.integers(1, 12, (17, 2))
    ]
    monkeypatch.setattr("mixcpt.align.scoring.MAX_LOGITS", 50 * model.config.vocab_size)
    sizes: list[int] = []
    losses = response_losses(model, samples, sizes.append)
    np.testing.assert_allclose(losses, [loss_alone(model, sample) for sample in samples], atol=1e-5)
    assert sum(sizes) == 17
    assert 1 < len(sizes) < 17


@pytest.mark.parametrize(("strategy", "planted"), [("known_gap", "known"), ("ppl_low", "easy")])
@pytest.mark.parametrize("file", ["sft", "dpo"])
def test_select_strategy_takes_the_planted_samples(
    store: ArtifactStore, taught_model: ModelRef, strategy: str, planted: str, file: str
) -> None:
    selection = run_select(store, taught_model, make_corpus(store, SAMPLES), strategy=strategy)
    assert sorted(ids(selection, file)) == [f"{planted}{i}" for i in range(6)]


def test_select_known_gap_orders_and_scores_as_one_by_one(store: ArtifactStore, taught_model: ModelRef) -> None:
    selection = run_select(store, taught_model, make_corpus(store, SAMPLES), num_instructions=24)
    frame = pd.read_parquet(selection.file("sft.parquet")).set_index("id")
    tokenizer, model = load_chat_tokenizer(taught_model, ""), load_model(taught_model)
    plain = {key: loss_alone(model, encode_plain(tokenizer, *sample)) for key, sample in SAMPLES.items()}
    chat = {key: loss_alone(model, encode_chat(tokenizer, *sample)) for key, sample in SAMPLES.items()}
    known = sorted(plain, key=lambda key: plain[key])[:12]
    expected = sorted(known, key=lambda key: plain[key] - chat[key])
    expected += sorted(set(plain) - set(known), key=lambda key: plain[key])
    assert list(frame.index) == expected
    for column, oracle in (("plain_loss", plain), ("chat_loss", chat)):
        np.testing.assert_allclose(frame[column], [oracle[key] for key in frame.index], atol=1e-4)
    np.testing.assert_allclose(frame["score"], frame["chat_loss"] - frame["plain_loss"], atol=2e-4)
    assert list(frame.columns) == ["source", "prompt", "response", "score", "plain_loss", "chat_loss"]


def test_select_random_differs_by_seed_repeats_by_seed_and_needs_no_model_run(
    store: ArtifactStore, tiny_model: ModelRef
) -> None:
    corpus = make_corpus(store, SAMPLES)
    first, second = (run_select(store, tiny_model, corpus, seed, strategy="random") for seed in (1, 2))
    again = run_select(ArtifactStore(store.root / "again"), tiny_model, corpus, 1, strategy="random")
    assert ids(first) != ids(second)
    assert again.digest == first.digest
    assert json.loads(first.file("report.json").read_text())["pools"]["instructions"]["tokens"] == 0
    assert pd.read_parquet(first.file("sft.parquet"))["score"].isna().all()


def test_select_num_candidates_are_drawn_at_random_before_scoring(store: ArtifactStore, tiny_model: ModelRef) -> None:
    corpus = make_corpus(store, SAMPLES)
    settings = {"strategy": "ppl_low", "num_candidates": 8, "num_instructions": 8}
    drawn = [set(ids(run_select(store, tiny_model, corpus, seed, **settings))) for seed in range(3)]
    assert all(len(names) == 8 for names in drawn)
    assert len(set().union(*drawn)) > 8


def test_select_unusable_samples_are_skipped_and_counted(store: ArtifactStore, tiny_model: ModelRef) -> None:
    samples = dict(list(SAMPLES.items())[:4])
    samples |= {"blank": ("who ?", " \n "), "long": ("who ?", "fox " * 40), "equal": ("who ?", "the river .")}
    selection = run_select(store, tiny_model, make_corpus(store, samples), max_tokens=30)
    pools = json.loads(selection.file("report.json").read_text())["pools"]
    assert pools["instructions"]["skipped"] == {"empty_answer": 1, "too_long": 1}
    assert pools["preferences"]["skipped"] == {"empty_answer": 1, "too_long": 1, "equal_answers": 1}
    assert sorted(ids(selection)) == sorted([*list(SAMPLES)[:4], "equal"])
    assert sorted(ids(selection, "dpo")) == sorted(list(SAMPLES)[:4])


def test_select_a_rejected_answer_that_is_too_long_skips_the_pair(store: ArtifactStore, tiny_model: ModelRef) -> None:
    corpus = make_corpus(store, SAMPLES, rejected="fox " * 40)
    selection = run_select(store, tiny_model, corpus, max_tokens=30)
    assert ids(selection, "dpo") == []
    assert len(ids(selection)) == 6


def test_select_fewer_candidates_than_asked_takes_all_and_reports_it(
    store: ArtifactStore, tiny_model: ModelRef
) -> None:
    corpus = make_corpus(store, dict(list(SAMPLES.items())[:4]))
    selection = run_select(store, tiny_model, corpus, num_preferences=0)
    pools = json.loads(selection.file("report.json").read_text())["pools"]
    assert len(ids(selection)) == 4
    assert (pools["instructions"]["asked"], pools["instructions"]["missing"]) == (6, 2)
    assert pools["instructions"]["filled_up"] == 2  # two of four lie above the median
    assert (pools["preferences"]["selected"], pools["preferences"]["missing"]) == (0, 0)
    assert list(pd.read_parquet(selection.file("dpo.parquet")).columns)[:5] == [
        "id", "source", "prompt", "chosen", "rejected",
    ]  # fmt: skip


def test_select_empty_corpus_selects_nothing(store: ArtifactStore, tiny_model: ModelRef) -> None:
    selection = run_select(store, tiny_model, make_corpus(store, {}))
    assert ids(selection) == ids(selection, "dpo") == []


def test_select_report_tells_quantiles_cost_and_progress(store: ArtifactStore, tiny_model: ModelRef) -> None:
    spool = Spool(store.root / "spool.jsonl")
    config = SelectionConfig(num_instructions=6, num_preferences=0, strategy="ppl_low")
    selection = select(config, make_corpus(store, SAMPLES), tiny_model, "", seed=0, store=store, tracker=spool)
    pool = json.loads(selection.file("report.json").read_text())["pools"]["instructions"]
    tokenizer = load_chat_tokenizer(tiny_model, "")
    assert pool["tokens"] == sum(encode_chat(tokenizer, *sample).num_tokens for sample in SAMPLES.values())
    chosen = pd.read_parquet(selection.file("sft.parquet"))["chat_loss"]
    assert pool["quantiles"]["selected"]["chat_loss"] == pytest.approx(
        [chosen.min(), *chosen.quantile([0.25, 0.5, 0.75]), chosen.max()], abs=1e-4
    )
    assert "plain_loss" not in pool["quantiles"]["candidates"]
    assert selection.record["metrics"]["seconds"] > 0
    last = spool.read()[0][-1]
    assert (last.step, last.total_steps) == (24, 24)


def test_select_identity_follows_the_template_text(store: ArtifactStore, tiny_model: ModelRef, tmp_path: Path) -> None:
    corpus = make_corpus(store, SAMPLES)
    config = SelectionConfig(strategy="random")
    own_text = tmp_path / "own.jinja"
    own_text.write_text(Path(tiny_model.path, "chat_template.jinja").read_text())
    prints = [
        select(config, corpus, tiny_model, name, seed=0, store=store, tracker=NullTracker()).fingerprint
        for name in ("", str(own_text), "plain")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_select_no_chat_template_is_refused_before_any_work(store: ArtifactStore, tiny_model: ModelRef) -> None:
    folder = shutil.copytree(tiny_model.path, store.root / "untemplated")
    (folder / "chat_template.jinja").unlink()
    corpus = make_corpus(store, SAMPLES)
    with pytest.raises(ModelError, match="no chat template"):
        run_select(store, ModelRef("untemplated", str(folder), ""), corpus)
    assert not (store.root / "selection").exists()
    assert not (store.root / "work" / "selection").exists()
