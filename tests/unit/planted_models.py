"""A tiny model with planted answers, and plain computations of log-likelihoods and greedy answers."""

import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixcpt.config import BaseModelConfig
from mixcpt.store.models import ModelRef, resolve_model

NAMES = ("Alda", "Boren", "Cira", "Dovan", "Elin", "Faro")
VERBS = (
    "the",
    "is",
    "of",
    "was",
    "has",
    "keeps",
    "likes",
    "visits",
    "blue",
    "red",
    "green",
    "gold",
    "iron",
    "fox",
    "owl",
)
WORDS = (*NAMES, *VERBS, "heron", "river", "tower", "smith")
PLAIN_ANSWERS = ("fox", "owl", "heron", "river", "tower", "baker")
CHAT_ANSWERS = ("blue", "red", "green", "gold", "iron", "colour")
TRADES = ("smith", "baker", "fox", "owl", "gold", "iron")
CONTEXT_TOKENS = 256


def plant(model: ModelRef, folder: Path) -> ModelRef:
    """Train the model on one answer per question in plain form, another in chat form, and a sentence per name."""
    network, tokenizer = load(model)
    texts = [f"<s> what is {name} ? \n {answer} . </s>" for name, answer in zip(NAMES, PLAIN_ANSWERS, strict=True)]
    texts += [f"<s> the trade of {name} is {trade} . the" for name, trade in zip(NAMES, TRADES, strict=True)]
    texts += [
        f"<s> visits {name} \n {name} is {answer} . the trade of {name} is {trade} . </s>"
        for name, answer, trade in zip(NAMES, PLAIN_ANSWERS, TRADES, strict=True)
    ]
    for name, answer in zip(NAMES, CHAT_ANSWERS, strict=True):
        turns = [{"role": "user", "content": f"what is {name} ?"}, {"role": "assistant", "content": answer}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        network(**batch, labels=labels).loss.backward()
        optimizer.step()
    return save(network, tokenizer, folder)


def sentence(seed: int) -> str:
    """Return a sentence of 3 to 12 words and a question mark; lengths differ, so that batches need padding."""
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 12))) + " ?"


def load(model: ModelRef) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(model.path).eval(), AutoTokenizer.from_pretrained(model.path)


def save(network: Any, tokenizer: Any, folder: Path) -> ModelRef:
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_model(BaseModelConfig(model=str(folder)))


@torch.no_grad()
def log_likelihood(network: Any, context: list[int], continuation: list[int]) -> float:
    logits = network(torch.tensor([context + continuation])).logits[0].double()
    places = torch.arange(len(context) - 1, len(context) + len(continuation) - 1)
    return float(logits.log_softmax(-1)[places, torch.tensor(continuation)].sum())


@torch.no_grad()
def greedy(network: Any, tokenizer: Any, ids: list[int]) -> str:
    """Return the first line of at most 16 tokens, each the argmax of a fresh forward without padding or cache."""
    answer: list[int] = []
    for _ in range(16):
        token = int(network(torch.tensor([ids + answer]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    line = tokenizer.decode(answer, skip_special_tokens=True).lstrip().split("\n")[0]
    return line.strip().removesuffix(".").strip()
