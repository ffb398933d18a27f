"""Runs tasks on a model through lm-eval; the only module that uses that library.

Rules fixed here, because they change results:
- A plain prompt starts with exactly one BOS token if the tokenizer has one, as every training document does. A chat
  prompt is exactly the template's text.
- The bits of an answer count the line break before it; a long answer is cut to half of the model's context.
- The bits of a text count all its tokens, the first one given BOS (EOS for a tokenizer without BOS), but not the end of
  the text. A text longer than the model's context is cut into windows that begin with the last token of the previous
  window; the last window is filled up with earlier text.
- Answers are greedy, whatever sampling settings the model was published with.
"""

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mixcpt.config import BenchmarkTask, BitsPerByteTask, ClosedWorldTask, MultipleChoiceTask, Task, has_one_answer
from mixcpt.errors import ModelError
from mixcpt.evaluate.asking.definitions import (
    Definition,
    Form,
    define,
    gold_delimiter,
    prompt_form,
    write_definition,
)
from mixcpt.evaluate.asking.gold import GoldScore, score_gold, text_divergences
from mixcpt.evaluate.asking.manifest import LIBRARIES, Manifest, TaskManifest
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.evaluate.asking.texts import (
    require_readable,
    scored_bytes,
    scores_answers,
    whole_text,
    with_short_answers,
)
from mixcpt.store.control_tokens import guarded, plain_ids, readable, token_ids
from mixcpt.store.models import ModelRef, load_model, load_tokenizer
from mixcpt.store.spool import Tracker

MAX_BATCH_LOGITS = 1 << 28
"""Maximum size of a batch's logits (prompts x tokens x vocabulary): 1 GiB in fp32."""

_PROGRESS_REPORTS = 50
_Sample = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a model to one item."""

    value: float
    """1 for a correct and 0 for a wrong answer; the number of bits for a text."""
    weight: float
    """1 for a question; the number of bytes for a text."""
    prompt: str
    answer: str
    value_normalised: float | None = None
    """1 or 0 for the choice with the highest log-likelihood per character; None unless the task is multiple choice."""
    truncated: bool = False
    """Whether the prompt exceeded the model's context and lost its beginning."""
    gold: GoldScore | None = None
    """The score of the correct answer; None if the item has no single correct text."""
    kl_to_reference: float | None = None
    """Mean KL(reference || model) of a general text, in nats per token; None for a question or without a reference."""

    @property
    def drift(self) -> float | None:
        """Mean KL(reference || model) of the question with its correct answer or of the text, in nats per token."""
        return self.gold.kl_to_reference if self.gold else self.kl_to_reference


def ask(
    model: ModelRef,
    tasks: Sequence[TaskItems],
    folder: Path,
    *,
    form: Form,
    batch_size: int,
    tracker: Tracker,
    reference: ModelRef | None = None,
) -> list[list[Answer]]:
    """Run tasks on a model, write their definitions into `folder`, and return the answers per task in item order.

    With a `reference`, which must have the model's tokenizer, also compare the predictions of the two models.

    Raises:
        DataError: If the tokenizer cannot represent the texts of a task.
        ModelError: If the model has no end-of-text token, lacks a chat template that `form` needs, or differs from the
            reference in the vocabulary size.
    """
    tokenizer = load_tokenizer(model)
    _require(tokenizer, model, form)
    all_items = chain.from_iterable(task.items for task in tasks)
    progress = _Progress(tracker, total=sum(len(item.choices) or 1 for item in all_items))
    delimiter = _answer_delimiter(tokenizer)
    for task in tasks:
        require_readable(tokenizer, task)
    answers = []
    with _quiet():
        network = _prepare(load_model(model), tokenizer)
        reference_network = _prepare(_load_reference(reference, network), tokenizer) if reference else None
        for task in tasks:
            task_form = prompt_form(task.config, form)
            # a template contains its own BOS, and lm-eval adds one to a text scored in bits per byte
            starts_with_bos = task_form == "plain" and (task.metric != "bits_per_byte" or scores_answers(task.config))
            language_model = _LanguageModel(
                network, tokenizer, batch_size, starts_with_bos=starts_with_bos, is_chat=task_form == "chat"
            )
            language_model.set_cache_hook(progress)
            fitting = with_short_answers(task, language_model.num_answer_tokens, language_model.max_length // 2)
            definition = write_definition(fitting, form, delimiter, folder=folder)
            samples = _run(language_model, definition, task_form)
            task_answers = [_answer(task.config, sample, language_model) for sample in samples]
            if not isinstance(task.config, BitsPerByteTask) and has_one_answer(task.config):
                gold_texts = [gold_delimiter(task.config, task_form, delimiter) + item.gold for item in task.items]
                task_answers = _with_gold(task_answers, gold_texts, language_model, reference_network)
            elif reference_network is not None and task.metric == "bits_per_byte" and task.config.group == "general":
                task_answers = _with_divergence(task, task_answers, language_model, reference_network)
            answers.append([replace(answer, prompt=readable(tokenizer, answer.prompt)) for answer in task_answers])
            logger.info("%s answered %d items of %s (%s form)", model.name, len(samples), task.name, task_form)
    return answers


def _load_reference(reference: ModelRef, model: PreTrainedModel) -> PreTrainedModel:
    network = load_model(reference)
    reference_size, size = (int(module.config.get_text_config().vocab_size) for module in (network, model))
    if reference_size != size:
        raise ModelError(
            f"the vocabulary of {reference.path} has {reference_size} tokens, the model's {size}: "
            "their predictions cannot be compared",
            "set evaluate.kl_to_base: false",
        )
    return network


def manifest(model: ModelRef, tasks: Sequence[TaskItems], *, form: Form, split: str) -> Manifest:
    """Return the exact conditions under which `ask` runs these tasks on this model."""
    tokenizer = load_tokenizer(model)
    delimiter = _answer_delimiter(tokenizer)
    bos = "none" if tokenizer.bos_token_id is None else "bos"
    task_manifests = {}
    for task in tasks:
        task_form = prompt_form(task.config, form)
        task_manifests[task.name] = TaskManifest(
            definition=define(task.config, has_choices=task.has_choices),
            items=task.digest,
            num_items=len(task.items),
            form=task_form,
            first_token="template" if task_form == "chat" else bos,
            answer_delimiter=delimiter if task_form == "chat" else "",
        )
    uses_template = any(task_manifest.form == "chat" for task_manifest in task_manifests.values())
    return Manifest(
        split=split,
        chat_template=str(tokenizer.chat_template) if uses_template else "",
        tasks=task_manifests,
        libraries={name: version(name) for name in LIBRARIES},
    )


class _Progress:
    """Counts finished requests. lm-eval reports each one to a cache, so this class has the interface of a cache."""

    def __init__(self, tracker: Tracker, total: int) -> None:
        self._tracker, self._total, self._done = tracker, total, 0

    def add_partial(self, kind: str, request: object, response: object) -> None:
        self._done += 1
        if self._done % max(1, self._total // _PROGRESS_REPORTS) == 0 or self._done == self._total:
            self._tracker.log(self._done, {"evaluate/progress": self._done / self._total}, total_steps=self._total)


class _LanguageModel(HFLM):
    """An lm-eval model with this project's rule for the first token and a bound on the memory of a batch.

    Control tokens act only if the chat template writes them. In the chat form, prompts are guarded texts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        *,
        starts_with_bos: bool,
        is_chat: bool,
    ) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        self.batch_size_per_gpu = batch_size
        self._bos = tokenizer.bos_token_id if starts_with_bos else None
        self._is_chat = is_chat

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        messages = [{**message, "content": guarded(self.tokenizer, message["content"])} for message in chat_history]
        return str(super().apply_chat_template(messages, add_generation_prompt))

    def guard(self, answer: str) -> str:
        """Return an answer as it follows a prompt of this form."""
        return guarded(self.tokenizer, answer) if self._is_chat else answer

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return super()._encode_pair(context, self.guard(continuation))  # type: ignore[no-any-return]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        input_ids = (token_ids if self._is_chat else plain_ids)(self.tokenizer, string)
        if self._bos is not None and add_special_tokens is not False:
            input_ids = [self._bos, *input_ids]
        return input_ids[-left_truncate_len:] if left_truncate_len else input_ids

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
        input_ids = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        batch = self.tokenizer.pad({"input_ids": input_ids}, padding_side=padding_side, return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    def num_answer_tokens(self, answer: str) -> int:
        """Return the number of tokens of an answer without its prompt."""
        return len(self.tok_encode(answer, add_special_tokens=False))

    def num_tokens(self, arguments: Sequence[Any]) -> int:
        """Return the number of context positions that an lm-eval request needs, including room for the answer."""
        context, answer = arguments if len(arguments) == 2 else ("", arguments[0])
        if isinstance(answer, dict):
            return len(self.tok_encode(context)) + int(answer["max_gen_toks"])
        return (
            len(self.tok_encode(f"{context}{self.guard(answer)}")) - 1
        )  # the last token is predicted, but never an input

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(self._batched(requests), disable_tqdm)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        return super().loglikelihood_rolling(self._batched(requests), disable_tqdm)  # type: ignore[no-any-return]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        return super().generate_until(self._batched(requests), disable_tqdm)  # type: ignore[no-any-return]

    def _batched(self, requests: list[Instance]) -> list[Instance]:
        """Set the batch size by the longest request, and return the requests."""
        longest = max(self.num_tokens(request.args) for request in requests)
        per_prompt = max(1, min(longest, self.max_length)) * int(self.model.config.get_text_config().vocab_size)
        self.batch_size_per_gpu = max(1, min(self.batch_size_per_gpu, MAX_BATCH_LOGITS // per_prompt))
        return requests


def _require(tokenizer: PreTrainedTokenizerBase, model: ModelRef, form: Form) -> None:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {model.path} has no end-of-text token", "set eos_token in its tokenizer_config.json"
        )
    if form == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {model.path} has no chat template, so the model cannot be evaluated in chat form",
            "set base.chat_template, or evaluate.aligned_form: plain",
        )


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Remove sampling settings such as a repetition penalty, and move the model to the GPU if there is one."""
    own_ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = {tokenizer.eos_token_id, *(own_ends if isinstance(own_ends, list) else [own_ends])} - {None}
    model.generation_config = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type, no-any-return]


def _answer_delimiter(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the white space between the generation prompt and the answer in chat form; empty without a template."""
    if not tokenizer.chat_template:
        return ""
    question, mark = {"role": "user", "content": "question"}, "answer"
    prompt = str(tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template([question, {"role": "assistant", "content": mark}], tokenize=False))
    between = whole.removeprefix(prompt).partition(mark)[0] if whole.startswith(prompt) else ""
    return between if between.isspace() else ""


def _run(model: _LanguageModel, definition: Definition, form: Form) -> list[_Sample]:
    """Run one task and return lm-eval's samples in the order of its data."""
    with TemporaryDirectory(prefix="mixcpt-evaluate-") as cache:
        data = {**definition["dataset_kwargs"], "cache_dir": cache}
        results = lm_evaluate(
            model,
            TaskManager(include_defaults=False).load([{**definition, "dataset_kwargs": data}]),
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template=form == "chat",
            fewshot_as_multiturn=True,
        )
    return sorted(results["samples"][definition["task"]], key=lambda sample: int(sample["doc_id"]))


def _answer(task: Task, sample: _Sample, model: _LanguageModel) -> Answer:
    requests = sample["arguments"]
    prompt = requests[0][0]
    truncated = any(model.num_tokens(request) > model.max_length for request in requests)
    if isinstance(task, ClosedWorldTask):
        value, answer = float(sample["exact_match"]), sample["filtered_resps"][0]
        return Answer(value=value, weight=1.0, prompt=prompt, answer=answer, truncated=truncated)
    if isinstance(task, MultipleChoiceTask):
        return Answer(
            value=sample["acc"],
            weight=1.0,
            prompt=prompt,
            answer=sample["doc"]["choices"][_likeliest(sample)].strip(),
            value_normalised=sample["acc_norm"],
            truncated=truncated,
        )
    if isinstance(task, BenchmarkTask):
        doc, answer = sample["doc"], ""
        if "choices" in doc:
            answer = doc["choices"][_likeliest(sample)].strip()
        elif sample["acc"]:
            answer = doc["gold"].strip()
        return Answer(value=float(sample["acc"]), weight=1.0, prompt=prompt, answer=answer, truncated=truncated)
    if scores_answers(task):
        log_likelihood, num_bytes = sample["filtered_resps"][0][0], scored_bytes(sample["doc"]["gold"])
    else:
        (log_likelihood, num_bytes), truncated = sample["bits_per_byte"], False  # windows read the whole text
    bits = -log_likelihood / math.log(2)
    return Answer(value=bits, weight=float(num_bytes), prompt=prompt, answer="", truncated=truncated)


def _likeliest(sample: _Sample) -> int:
    """Return the place of the most likely choice."""
    return int(np.argmax([log_likelihood for log_likelihood, _ in sample["filtered_resps"]]))


def _with_gold(
    answers: list[Answer], gold_texts: list[str], model: _LanguageModel, reference: PreTrainedModel | None
) -> list[Answer]:
    """Return the answers with the scores of the correct ones."""
    gold_texts = [model.guard(text) for text in gold_texts]
    scores = score_gold(
        model.model,
        lambda text, starts: model.tok_encode(text, add_special_tokens=None if starts else False),
        [answer.prompt for answer in answers],
        gold_texts,
        batch_size=model.batch_size_per_gpu,
        max_tokens=model.max_length,
        reference=reference,
    )
    return [replace(answer, gold=score) for answer, score in zip(answers, scores, strict=True)]


def _with_divergence(
    task: TaskItems, answers: list[Answer], model: _LanguageModel, reference: PreTrainedModel
) -> list[Answer]:
    """Return the answers with the divergence of the model's predictions on every text from the reference's."""
    texts = [whole_text(task.config, item) for item in task.items]
    divergences = text_divergences(
        model.model,
        reference,
        [[model.prefix_token_id, *model.tok_encode(text, add_special_tokens=False)] for text in texts],
        batch_size=model.batch_size_per_gpu,
        max_tokens=model.max_length,
    )
    return [replace(answer, kl_to_reference=kl) for answer, kl in zip(answers, divergences, strict=True)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and hints off the terminal; errors still pass."""
    lm_eval_logger = logging.getLogger("lm_eval")
    level = lm_eval_logger.level
    lm_eval_logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        lm_eval_logger.setLevel(level)
