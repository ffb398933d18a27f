"""Bits per byte of the answers to held-out instructions, from curation to the harness."""

import math
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from mixcpt.config import BitsPerByteTask, CurationConfig, EvaluateConfig, FilesSource
from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.curation.pipeline import curate
from mixcpt.curation.sources import curation_key
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.harness import ask, manifest
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from tests.unit.planted_models import CONTEXT_TOKENS, WORDS, load, log_likelihood, sentence

TASK = BitsPerByteTask(name="answers", group="general", heldout_pool="instructions")


def curated(folder: Path, *, samples: int, heldout: int, copies: int = 1) -> ArtifactRef:
    documents, instructions = folder / "d.jsonl", folder / "i.jsonl"
    documents.write_text("".join(f'{{"text": "Document {n} about the tower of owls."}}\n' for n in range(30)))
    lines = [f'{{"prompt": "Say {n}.", "response": "It is {n}."}}\n' for n in range(samples)]
    instructions.write_text("".join(lines * copies))
    sources = (
        FilesSource(name="d", pool="domain", paths=(str(documents),)),
        FilesSource(name="i", pool="instructions", paths=(str(instructions),)),
    )
    config = CurationConfig(sources=sources, heldout_instructions=heldout)
    return curate(config, seed=0, store=ArtifactStore(folder / "store"))


@pytest.mark.parametrize(("samples", "heldout", "expected"), [(50, 100, 5), (50, 3, 3), (9, 5, 0), (50, 0, 0)])
def test_instructions_are_held_out_up_to_a_tenth(tmp_path: Path, samples: int, heldout: int, expected: int) -> None:
    corpus = curated(tmp_path, samples=samples, heldout=heldout)
    counts = CorpusReport.of(corpus).sources["i"]
    assert (counts.heldout, counts.kept) == (expected, samples - expected)
    if expected:
        (task,) = read_tasks(_only(TASK), corpus, seed=0)
        assert len(task.items) == expected
        assert all(item.gold == f"It is {item.prompt[4:-1]}." for item in task.items)
    else:
        with pytest.raises(DataError, match="no instruction is held out"):
            read_tasks(_only(TASK), corpus, seed=0)


def test_no_copy_of_a_held_out_instruction_is_trained_on(tmp_path: Path) -> None:
    import pandas as pd

    corpus = curated(tmp_path, samples=40, heldout=4, copies=3)
    kept = set(pd.read_parquet(corpus.file("instructions.parquet"))["prompt"])
    (task,) = read_tasks(_only(TASK), corpus, seed=0)
    assert len(task.items) == 4
    assert len(kept) == 36
    assert not kept & {item.prompt for item in task.items}


def test_corpora_without_held_out_instructions_keep_their_key() -> None:
    key = curation_key(CurationConfig(), [], 0)
    assert "heldout_instructions" not in str(key)
    assert "heldout_instructions" not in str(CurationConfig().identity())
    assert key != curation_key(CurationConfig(heldout_instructions=5), [], 0)


def test_held_out_instructions_are_general() -> None:
    with pytest.raises(ValidationError, match="needs group: general"):
        BitsPerByteTask(name="answers", group="domain", heldout_pool="instructions")


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_bits_of_answers_equal_hand_computation_after_the_prompt(
    tiny_model: ModelRef, tmp_path: Path, form: str
) -> None:
    items = tuple(Item(id=str(n), prompt=sentence(n), gold=sentence(n + 50)) for n in range(5))
    (answers,) = ask(
        tiny_model, [TaskItems(TASK, items)], tmp_path, form=form, batch_size=3, tracker=NullTracker(),
        reference=tiny_model,
    )  # fmt: skip
    network, tokenizer = load(tiny_model)
    for item, answer in zip(items, answers, strict=True):
        context, answer_ids = [1, *tokenizer.encode(item.prompt)], tokenizer.encode(f"{item.prompt}\n{item.gold}")
        expected = -log_likelihood(network, context, answer_ids[len(context) - 1 :]) / math.log(2)
        assert answer.value == pytest.approx(expected, rel=1e-5)
        assert answer.weight == 1 + len(item.gold.encode())
        assert answer.drift == pytest.approx(0, abs=1e-6)


def test_an_answer_longer_than_the_context_is_cut_and_its_bytes_are_those_scored(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    words = random.Random(3).choices(WORDS, k=3 * CONTEXT_TOKENS)
    item = Item(id="0", prompt=" ".join(words), gold=" ".join(reversed(words)))
    task = TaskItems(TASK, (item,))
    ((answer,),) = ask(tiny_model, [task], tmp_path, form="plain", batch_size=2, tracker=NullTracker())
    _, tokenizer = load(tiny_model)
    cut = item.gold.encode()[: int(answer.weight) - 1].decode()
    assert CONTEXT_TOKENS // 2 - 8 <= len(tokenizer.encode(cut)) <= CONTEXT_TOKENS // 2
    assert 0 < answer.value / answer.weight < 20
    assert answer.truncated  # the prompt lost its beginning


def test_manifest_of_answers_begins_with_bos_and_is_plain_for_every_model(tiny_model: ModelRef) -> None:
    task = TaskItems(TASK, (Item(id="0", prompt="who ?", gold="fox"),))
    entry = manifest(tiny_model, [task], form="chat", split="all").tasks["answers"]
    assert (entry.form, entry.first_token) == ("plain", "bos")
    assert entry.definition["output_type"] == "loglikelihood"
    assert entry.definition["metric_list"][0]["metric"] == "acc"  # lm-eval's perplexity of a long answer overflows


def _only(task: BitsPerByteTask) -> EvaluateConfig:
    return EvaluateConfig(tasks=(task,), headline_domain="answers", headline_general="answers")
