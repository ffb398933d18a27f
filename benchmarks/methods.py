"""Every method on the closed world at equal tokens: what was learned, what was forgotten, what it cost.

    python benchmarks/methods.py --store FOLDER [--jobs 2] [--tokens 300000] [--seeds 3]

For each method the learning rate is chosen among two, with the first seed, on half of the facts; the table shows the
other half, over all seeds. A second table, at the same rates, has the documents state each fact once, where METHODS 2
expects DiSC to fail.
What the store has is not computed again, so an interrupted run goes on.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from measure import publish
from pydantic import TypeAdapter

from mixcpt.artifacts import ArtifactRef, ArtifactStore
from mixcpt.config import (
    BaseModelConfig,
    ClosedWorldSource,
    ClosedWorldTask,
    CurationConfig,
    EvaluateConfig,
    LoraScope,
    Method,
    MixtureConfig,
    OptimizerConfig,
    PoolWeights,
    PretrainConfig,
)
from mixcpt.models import ModelRef, resolve_model

RATES = (3e-4, 1e-3)
LORA_RATES = (1e-3, 3e-3)
NUM_RESAMPLES = 4000
DOMAIN_ALONE = PoolWeights(domain=1, instructions=0, preferences=0)
MIXTURE = PoolWeights(domain=0.7, instructions=0.25, preferences=0.05)
TASKS = EvaluateConfig(
    tasks=(
        ClosedWorldTask(name="use"),
        ClosedWorldTask(name="memory", form="memory"),
        ClosedWorldTask(name="kept", group="general", about="general_unasked", limit=300),
    ),
    headline_domain="use",
    headline_general="kept",
)


@dataclass(frozen=True)
class Contender:
    """A method with its settings."""

    label: str
    method: dict[str, Any]
    is_lora: bool = False


CONTENDERS = (
    Contender("CPT, domain alone", {"kind": "cpt"}),
    Contender("CPT + replay", {"kind": "cpt_replay"}),
    Contender("KL", {"kind": "kl"}),
    Contender("plain self-distillation", {"kind": "none"}),
    Contender("mask", {"kind": "mask"}),
    Contender("margin", {"kind": "margin"}),
    Contender("TALR", {"kind": "talr"}),
    Contender("reading", {"kind": "reading"}),
    Contender("PIT, mined questions", {"kind": "pit"}),
    Contender("Mix-CPT (LSSD)", {"kind": "lssd"}),
    Contender("Mix-CPT (LSSD), LoRA", {"kind": "lssd"}, is_lora=True),
    Contender("document DCD", {"kind": "document_dcd"}),
    Contender("DiSC", {"kind": "disc"}),
    Contender("Mix-CPT + DiSC streams", {"kind": "streams"}),
)
ON_SINGLE_MENTIONS = ("CPT, domain alone", "CPT + replay", "Mix-CPT (LSSD)", "DiSC", "Mix-CPT + DiSC streams")


@dataclass(frozen=True)
class Trial:
    """One training and what is asked of its model."""

    label: str
    method: dict[str, Any]
    is_lora: bool
    rate: float
    seed: int
    mentions: int
    tokens: int
    store: str


def run_trial(trial: Trial) -> dict[str, Any]:
    """Returns answers by task and form, and costs."""
    import torch

    from mixcpt.curation import curate
    from mixcpt.evaluate import evaluate
    from mixcpt.mixture import mix
    from mixcpt.tracking import NullTracker
    from mixcpt.train.pretrain import pretrain

    torch.set_num_threads(1)
    store, tracker = ArtifactStore(trial.store), NullTracker()
    base = resolve_model(BaseModelConfig())
    corpus = curate(_sources(trial.mentions), seed=0, store=store)
    method: Method = TypeAdapter(Method).validate_python(trial.method)
    is_alone = all(stream.reads == "domain" for stream in method.streams())
    mixture = MixtureConfig(weights=DOMAIN_ALONE if is_alone else MIXTURE, total_tokens=trial.tokens)
    config = PretrainConfig(
        method=method,
        optimizer=OptimizerConfig(learning_rate=trial.rate),
        **({"scope": LoraScope()} if trial.is_lora else {}),
    )
    rows = mix(mixture, corpus, base, seed=trial.seed, store=store, streams=method.streams())
    trained = pretrain(config, rows, base, seed=trial.seed, store=store, tracker=tracker)
    model = ModelRef.from_artifact(trained, trial.label)
    answers = {
        form: _answers(evaluate(TASKS, model, corpus, form=form, seed=0, store=store, tracker=tracker))
        for form in ("plain", "chat")
    }
    metrics = trained.record["metrics"]
    return {"answers": answers} | {name: metrics[name] for name in ("tokens", "flops", "train_seconds")}


def _sources(mentions: int) -> CurationConfig:
    pools = ("domain", "instructions", "preferences")
    return CurationConfig(
        sources=tuple(
            ClosedWorldSource(name=f"world-{pool}", pool=pool, mentions=mentions if pool == "domain" else 1)  # type: ignore[arg-type]
            for pool in pools
        )
    )


def _answers(evaluation: ArtifactRef) -> dict[str, dict[str, float]]:
    """Returns by task whether each item was answered rightly."""
    items = pd.read_parquet(evaluation.file("items.parquet"))
    return {task: dict(zip(of["item_id"], of["value"], strict=True)) for task, of in items.groupby("task")}


def in_own_process(trial: Trial) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--trial", json.dumps(asdict(trial))], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{trial} failed:\n{done.stderr[-3000:]}")
    print(f"  {trial.label}, rate {trial.rate:g}, seed {trial.seed}, mentions {trial.mentions}", file=sys.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def values(result: dict[str, Any], task: str, form: str, *, for_selection: bool) -> dict[str, float]:
    """Returns the answers of one half of the items: the half is decided by the item's own name."""
    return {
        item: value
        for item, value in result["answers"][form][task].items()
        if (hashlib.sha256(item.encode()).digest()[0] % 2 == 0) == for_selection
    }


def score(result: dict[str, Any]) -> float:
    """Returns what a rate is chosen by: use and retention alike, on the selection half."""
    return float(
        np.mean([np.mean(list(values(result, task, "chat", for_selection=True).values())) for task in ("use", "kept")])
    )


def interval(results: Sequence[dict[str, Any]], task: str, form: str) -> tuple[float, float, float]:
    """Returns mean and 95 % interval on the report half; seeds and items are resampled (percentile bootstrap)."""
    table = np.array([list(values(result, task, form, for_selection=False).values()) for result in results])
    generator = np.random.default_rng(0)
    seeds = generator.integers(len(table), size=(NUM_RESAMPLES, len(table)))
    items = generator.integers(table.shape[1], size=(NUM_RESAMPLES, table.shape[1]))
    means = np.array([table[np.ix_(of_seed, of_item)].mean() for of_seed, of_item in zip(seeds, items, strict=True)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(table.mean()), float(low), float(high)


def compete(
    contenders: Sequence[Contender],
    mentions: int,
    arguments: argparse.Namespace,
    pool: ThreadPoolExecutor,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, tuple[float, list[dict[str, Any]]]]:
    """Returns for each method the rate that was chosen, or is given, and its results over the seeds."""

    def trial(contender: Contender, rate: float, seed: int) -> Trial:
        return Trial(
            contender.label,
            contender.method,
            contender.is_lora,
            rate,
            seed,
            mentions,
            arguments.tokens,
            str(arguments.store),
        )

    def candidate_rates(contender: Contender) -> tuple[float, ...]:
        if contender.label in rates:
            return (rates[contender.label],)
        return LORA_RATES if contender.is_lora else RATES

    candidates = [(each, rate) for each in contenders for rate in candidate_rates(each)]
    first = list(pool.map(in_own_process, [trial(each, rate, 0) for each, rate in candidates]))
    chosen: dict[str, tuple[float, float, dict[str, Any]]] = {}
    for (each, rate), result in zip(candidates, first, strict=True):
        if each.label not in chosen or score(result) > chosen[each.label][0]:
            chosen[each.label] = (score(result), rate, result)
    more = [(each, seed) for each in contenders for seed in range(1, arguments.seeds)]
    rest = list(pool.map(in_own_process, [trial(each, chosen[each.label][1], seed) for each, seed in more]))
    found = {label: (rate, [result]) for label, (_, rate, result) in chosen.items()}
    for (each, _), result in zip(more, rest, strict=True):
        found[each.label][1].append(result)
    return found


def show(found: dict[str, tuple[float, list[dict[str, Any]]]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Returns the rows of the table and the figures by method."""
    rows, figures = [], {}
    for label, (rate, results) in found.items():
        columns = {
            "memory": interval(results, "memory", "plain"),
            "use": interval(results, "use", "chat"),
            "use_plain": interval(results, "use", "plain"),
            "kept": interval(results, "kept", "chat"),
            "kept_plain": interval(results, "kept", "plain"),
        }
        flops = float(np.mean([result["flops"] for result in results]))
        cells = [f"{mean:.1%} [{low:.0%}, {high:.0%}]" for mean, low, high in columns.values()]
        rows.append([label, f"{rate:g}", *cells, f"{flops / 1e12:.1f}"])
        figures[label] = {"rate": rate, "flops": flops, **columns}
    return rows, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(".mixcpt-methods"), help="folder of the artifact store")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time, each with one thread")
    parser.add_argument("--tokens", type=int, default=300_000, help="length of every training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        print(json.dumps(run_trial(Trial(**json.loads(arguments.trial)))))
        return
    columns = ["method", "rate", "memory", "use, chat", "use, plain", "kept, chat", "kept, plain", "TFLOP"]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rates: dict[str, float] = {}
        for name, mentions in (("repeated", 2), ("single", 1)):
            contenders = [each for each in CONTENDERS if mentions == 2 or each.label in ON_SINGLE_MENTIONS]
            found = compete(contenders, mentions, arguments, pool, rates)
            rates = {label: rate for label, (rate, _) in found.items()}
            rows, figures = show(found)
            result = {"tokens": arguments.tokens, "seeds": arguments.seeds, "mentions": mentions, **figures}
            publish(f"methods-{name}-facts", columns, rows, result, rounds=arguments.seeds)


if __name__ == "__main__":
    main()
