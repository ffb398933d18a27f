"""Logit-swap self-distillation (Mix-CPT) in one plain loop. Run it with `python examples/lssd_in_100_lines.py`.

A small language model reads documents about new entities, mixed with instructions about entities that it already knows.
Its frozen copy is the teacher, so the model learns new facts and keeps old ones (equations: docs/algorithms.md).
"""

import random
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixcpt.closed_world.documents import documents_of
from mixcpt.closed_world.instructions import ask, instructions
from mixcpt.closed_world.templates import QUESTIONS
from mixcpt.closed_world.world import Fact, facts_of, world
from mixcpt.store.models import CLOSED_WORLD_PATH

ALPHA, TEMPERATURE = 0.8, 1.0
ROW_TOKENS, BATCH_ROWS, EPOCHS, LEARNING_RATE = 256, 4, 6, 1e-3
IGNORE_INDEX = -100
torch.manual_seed(0)
random.seed(0)

# Student and teacher start as the same model. The teacher stays frozen.
tokenizer = AutoTokenizer.from_pretrained(CLOSED_WORLD_PATH)
student = AutoModelForCausalLM.from_pretrained(CLOSED_WORLD_PATH)
teacher = AutoModelForCausalLM.from_pretrained(CLOSED_WORLD_PATH).requires_grad_(False)

# The mixture: documents about six new entities in 20 wordings, and general instructions as plain text.
closed_world = world(seed=0)
entities = closed_world.domain[:6]
documents = list(chain.from_iterable(documents_of(entity, seed=0, count=20) for entity in entities))
questions = random.sample(list(instructions(closed_world)), 300)
texts = documents + [f"{record['prompt']}\n{record['response']}" for record in questions]
random.shuffle(texts)


def pack(texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, positions and labels of rows in which texts follow each other.

    Positions restart at every text. transformers then masks the attention between the texts of a row.
    """
    ids, positions, labels = [], [], []
    for text in texts:
        tokens = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        ids += tokens
        positions += range(len(tokens))
        labels += [*tokens[1:], IGNORE_INDEX]  # the label of a position is the next token of the same text
    num_rows = len(ids) // ROW_TOKENS
    columns = torch.tensor([ids, positions, labels])[:, : num_rows * ROW_TOKENS].view(3, num_rows, ROW_TOKENS)
    return columns[0], columns[1], columns[2]


def lssd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return alpha * CE + (1 - alpha) * T^2 * KL(q || p), the mean over all positions with a label."""
    is_scored = labels != IGNORE_INDEX
    s, z, y = student_logits[is_scored], teacher_logits[is_scored], labels[is_scored].unsqueeze(1)
    # z' = z with the top logit and the logit of the true token exchanged
    top = z.argmax(dim=1, keepdim=True)
    z_swapped = z.scatter(1, top, z.gather(1, y)).scatter(1, y, z.gather(1, top))
    # q = softmax(z' / T), p = softmax(s / T)
    log_q, log_p = (z_swapped / TEMPERATURE).log_softmax(dim=1), (s / TEMPERATURE).log_softmax(dim=1)
    kl = functional.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    return ALPHA * functional.cross_entropy(s, y.squeeze(1)) + (1 - ALPHA) * TEMPERATURE**2 * kl


def answer_logprob(facts: tuple[Fact, ...]) -> float:
    """Return the mean log-probability, in nats, that the student gives to the answers of questions about facts."""
    logprobs = []
    for fact in facts:
        prompt = tokenizer(f"{tokenizer.bos_token}{ask(fact, QUESTIONS[0])}\n", add_special_tokens=False).input_ids
        answer = tokenizer(fact.value, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = student(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        logprobs.append(float(logits.log_softmax(dim=1).gather(1, torch.tensor([answer]).T).sum()))
    return sum(logprobs) / len(logprobs)


facts = {"new": facts_of(entities), "old": closed_world.unasked[:30]}
before = {name: answer_logprob(group) for name, group in facts.items()}
input_ids, position_ids, labels = pack(texts)
optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE)
for epoch in range(EPOCHS):
    losses = []
    for rows in torch.randperm(len(input_ids)).split(BATCH_ROWS):
        batch = {"input_ids": input_ids[rows], "position_ids": position_ids[rows], "use_cache": False}
        with torch.no_grad():
            teacher_logits = teacher(**batch).logits
        loss = lssd_loss(student(**batch).logits, teacher_logits, labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
after = {name: answer_logprob(group) for name, group in facts.items()}
for name in facts:
    print(f"mean log-probability of {name} facts: {before[name]:.2f} before, {after[name]:.2f} after training")
