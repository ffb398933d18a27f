"""Asks a model through lm-eval; the one file that knows that library.

What is fixed here, because it decides results:
- A plain prompt starts with the tokenizer's BOS token where it has one, exactly once, as every training document does.
  A chat prompt is the template's text and nothing more.
- Bits of a text are those of all its tokens, the first one given BOS (EOS for a tokenizer without BOS); the text's end
  is not counted. A text longer than the model's context is cut into windows that begin with the last token of the one
  before; the last window is filled up with earlier text.
- Answers are greedy, whatever sampling settings came with the model.
"""

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib.metadata import version
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

from mixcpt.config import BitsPerByteTask, ClosedWorldTask, MultipleChoiceTask, Task, has_one_answer
from mixcpt.errors import ModelError
from mixcpt.evaluate.asking.definitions import Definition, Form, define, gold_delimiter, prompt_form, write_definition
from mixcpt.evaluate.asking.gold import GoldScore, score_gold
from mixcpt.evaluate.asking.manifest import LIBRARIES, Manifest, TaskManifest
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.store.models import ModelRef, load_model, load_tokenizer
from mixcpt.store.spool import Tracker

MAX_BATCH_LOGITS = 1 << 28
"""A batch gets fewer prompts where its logits (prompts x tokens x vocabulary) would need more than 1 GiB in fp32."""

_PROGRESS_REPORTS = 50
_Sample = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a model said to one item."""

    value: float
    """1 or 0 for right or wrong; the bits of a text."""
    weight: float
    """1; the bytes of a text."""
    prompt: str
    """The whole text that the model was given."""
    answer: str
    value_normalised: float | None = None
    """Multiple choice: right or wrong by the log-likelihood per character."""
    truncated: bool = False
    """Whether the prompt was longer than the model's context and lost its beginning."""
    gold: GoldScore | None = None
    """What the model thinks of the right answer; None for a text whose bits are counted."""


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
    """Returns for each task the answers to its items, in their order; writes the tasks' definitions into `folder`.

    With a `reference`, whose tokenizer is the model's, it also says how far the model's predictions are from its.

    Raises:
        ModelError: If the model has no end-of-text token, is asked in chat form and has no chat template, or has not
            the vocabulary of the reference.
    """
    tokenizer = load_tokenizer(model)
    _require(tokenizer, model, form)
    progress = _Progress(tracker, sum(len(item.choices) or 1 for task in tasks for item in task.items))
    answers = []
    with _quiet():
        network = _prepare(load_model(model), tokenizer)
        other = _prepare(_reference(reference, network), tokenizer) if reference else None
        for task in tasks:
            definition = write_definition(task, form, _answer_delimiter(tokenizer), folder)
            asked_form = prompt_form(task.task, form)
            language_model = _LanguageModel(
                network, tokenizer, batch_size, starts_with_bos=_starts_with_bos(task, asked_form)
            )
            language_model.set_cache_hook(progress)
            samples = _run(language_model, definition, asked_form)
            given = [_answer(task.task, sample, language_model) for sample in samples]
            answers.append(_with_gold(task, given, language_model, asked_form, _answer_delimiter(tokenizer), other))
            logger.info("%s answered %d items of %s (%s form)", model.name, len(samples), task.task.name, asked_form)
    return answers


def _reference(reference: ModelRef, model: PreTrainedModel) -> PreTrainedModel:
    loaded = load_model(reference)
    sizes = [int(each.config.get_text_config().vocab_size) for each in (loaded, model)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the vocabulary of {reference.path} has {sizes[0]} tokens, the model's {sizes[1]}: "
            "their predictions cannot be compared",
            "set evaluate.kl_to_base: false",
        )
    return loaded


def manifest(model: ModelRef, tasks: Sequence[TaskItems], *, form: Form, split: str) -> Manifest:
    """Returns how exactly `ask` asks these tasks of this model."""
    tokenizer = load_tokenizer(model)
    delimiter = _answer_delimiter(tokenizer)
    forms = {asked.task.name: prompt_form(asked.task, form) for asked in tasks}
    return Manifest(
        split=split,
        chat_template=str(tokenizer.chat_template) if "chat" in forms.values() else "",
        tasks={
            asked.task.name: TaskManifest(
                definition=define(asked.task),
                items=asked.digest,
                num_items=len(asked.items),
                form=forms[asked.task.name],
                first_token=_first_token(forms[asked.task.name], tokenizer),
                answer_delimiter=delimiter if forms[asked.task.name] == "chat" else "",
            )
            for asked in tasks
        },
        libraries={name: version(name) for name in LIBRARIES},
    )


class _Progress:
    """Counts answered requests; lm-eval tells a cache of every one it finishes, so this poses as a cache."""

    def __init__(self, tracker: Tracker, total: int) -> None:
        self._tracker = tracker
        self._total = total
        self._done = 0

    def add_partial(self, kind: str, request: object, response: object) -> None:
        self._done += 1
        if self._done % max(1, self._total // _PROGRESS_REPORTS) == 0 or self._done == self._total:
            self._tracker.log(self._done, {"evaluate/progress": self._done / self._total}, total_steps=self._total)


class _LanguageModel(HFLM):
    """lm-eval's view of a model, with the rule for the beginning of a prompt and a bound on a batch's memory."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, *, starts_with_bos: bool
    ) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        self.batch_size_per_gpu = batch_size
        self._bos = tokenizer.bos_token_id if starts_with_bos else None

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        input_ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
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

    def num_tokens(self, arguments: Sequence[Any]) -> int:
        """Returns how many positions of the context a request of lm-eval needs, room for the answer included."""
        context, answer = arguments if len(arguments) == 2 else ("", arguments[0])
        if isinstance(answer, dict):
            return len(self.tok_encode(context)) + int(answer["max_gen_toks"])
        return len(self.tok_encode(f"{context}{answer}")) - 1  # the last token is predicted, never read

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._limit_batch(requests)
        return super().loglikelihood(requests, disable_tqdm)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        self._limit_batch(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm)  # type: ignore[no-any-return]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        self._limit_batch(requests)
        return super().generate_until(requests, disable_tqdm)  # type: ignore[no-any-return]

    def _limit_batch(self, requests: list[Instance]) -> None:
        longest = max(self.num_tokens(request.args) for request in requests)
        per_prompt = max(1, min(longest, self.max_length)) * int(self.model.config.get_text_config().vocab_size)
        self.batch_size_per_gpu = max(1, min(self.batch_size_per_gpu, MAX_BATCH_LOGITS // per_prompt))


def _require(tokenizer: PreTrainedTokenizerBase, model: ModelRef, form: Form) -> None:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {model.path} has no end-of-text token", "set eos_token in its tokenizer_config.json"
        )
    if form == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {model.path} has no chat template, so it cannot be asked in chat form",
            "set base.chat_template, or evaluate.aligned_form: plain",
        )


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Returns the model on the GPU, if there is one, freed of sampling settings such as a repetition penalty."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    model.generation_config = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type, no-any-return]


def _answer_delimiter(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the white space that the chat form, if any, puts between the cue to answer and the answer itself."""
    if not tokenizer.chat_template:
        return ""
    question, mark = {"role": "user", "content": "question"}, "answer"
    asked = str(tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True))
    answered = str(tokenizer.apply_chat_template([question, {"role": "assistant", "content": mark}], tokenize=False))
    between = answered.removeprefix(asked).partition(mark)[0] if answered.startswith(asked) else ""
    return between if between.isspace() else ""


def _first_token(form: Form, tokenizer: PreTrainedTokenizerBase) -> str:
    return "template" if form == "chat" else "none" if tokenizer.bos_token_id is None else "bos"


def _starts_with_bos(task: TaskItems, form: Form) -> bool:
    # the template writes its own BOS; and lm-eval puts one before a text whose bits are counted
    return form == "plain" and task.metric != "bits_per_byte"


def _run(model: _LanguageModel, definition: Definition, form: Form) -> list[_Sample]:
    """Returns lm-eval's samples of one task, in the order of its data."""
    name = definition["task"]
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
    return sorted(results["samples"][name], key=lambda sample: int(sample["doc_id"]))


def _answer(task: Task, sample: _Sample, model: _LanguageModel) -> Answer:
    requests = sample["arguments"]
    truncated = any(model.num_tokens(request) > model.max_length for request in requests)
    if isinstance(task, ClosedWorldTask):
        return Answer(
            float(sample["exact_match"]), 1.0, requests[0][0], sample["filtered_resps"][0], truncated=truncated
        )
    if isinstance(task, MultipleChoiceTask):
        likeliest = int(np.argmax([log_likelihood for log_likelihood, _ in sample["filtered_resps"]]))
        answer = sample["doc"]["choices"][likeliest].strip()
        return Answer(sample["acc"], 1.0, requests[0][0], answer, sample["acc_norm"], truncated)
    log_likelihood, num_bytes = sample["bits_per_byte"]
    return Answer(-log_likelihood / math.log(2), float(num_bytes), requests[0][0], "")


def _with_gold(
    asked: TaskItems,
    answers: list[Answer],
    model: _LanguageModel,
    form: Form,
    chat_delimiter: str,
    reference: PreTrainedModel | None,
) -> list[Answer]:
    """Returns the answers with what the model thinks of the right ones."""
    if isinstance(asked.task, BitsPerByteTask) or not has_one_answer(asked.task):
        return answers
    delimiter = gold_delimiter(asked.task, form, chat_delimiter)
    scores = score_gold(
        model.model,
        lambda text, starts: model.tok_encode(text, add_special_tokens=None if starts else False),
        [answer.prompt for answer in answers],
        [delimiter + item.gold for item in asked.items],
        batch_size=model.batch_size_per_gpu,
        max_tokens=model.max_length,
        reference=reference,
    )
    return [replace(answer, gold=score) for answer, score in zip(answers, scores, strict=True)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the harness's progress bars and advice off the terminal; errors pass."""
    harness = logging.getLogger("lm_eval")
    level = harness.level
    harness.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        harness.setLevel(level)
