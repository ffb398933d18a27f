"""Check of the tasks that measure a model: files of questions and texts, benchmarks, and headline tasks."""

from collections.abc import Iterator

from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.heldout import choose_heldout, count, distinct_heldout, read_small_pool
from mixcpt.config import BitsPerByteTask, Task, headline_problems
from mixcpt.curation.records import DOCUMENT_POOLS
from mixcpt.evaluate.asking.tasks import CheckedTask, check_task
from mixcpt.evaluate.asking.texts import MAX_COMPARED_CHARACTERS, MAX_LOST_SHARE
from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.mixture.lost_text import lost_text


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the tasks; records that cannot be used and few passages are warnings."""
    config = subject.config.evaluate
    for problem in headline_problems(config):
        yield Finding(problem=f"evaluate.{problem}")
    if not any(task.group == "general" for task in config.tasks):
        problem = "evaluate.tasks has no general task, so forgetting is not measured"
        yield Finding(
            problem=problem,
            remedy="add {kind: bits_per_byte, name: general_text, group: general, path: shipped} to evaluate.tasks and "
            "set evaluate.headline_general: general_text",
            is_warning=True,
        )
    for index, task in enumerate(config.tasks):
        checked = check_task(task, f"evaluate.tasks[{index}]")
        if checked.problem:
            yield Finding.of(checked.problem)
            continue
        yield from _lost(subject, checked, index)
        yield from _few_heldout(subject, task, index)
        if bad := checked.rejected:
            yield Finding(
                problem=f"evaluate.tasks[{index}]: {len(bad)} of {len(bad) + checked.num_items} records of {task.name} "
                f"cannot be used; the first, {bad[0]}",
                remedy="repair the records; they are left out and listed in the evaluation's quarantine.parquet",
                is_warning=True,
            )
        if 0 < checked.num_passages < MIN_PASSAGES:
            yield Finding(
                problem=f"evaluate.tasks[{index}]: {task.name} is about {checked.num_passages} passages, too few "
                "for an interval, so its change is shown without one",
                remedy=f"give items about {MIN_PASSAGES} passages or more; items without a passage count as one each",
                is_warning=True,
            )


def _lost(subject: Subject, checked: CheckedTask, index: int) -> Iterator[Finding]:
    """Yield a problem if the tokenizer cannot represent the texts of a task."""
    if subject.tokenizer is None or not checked.texts:
        return
    limit = min(subject.config.curation.max_lost_fraction, MAX_LOST_SHARE)
    lost = lost_text(subject.tokenizer, (text[:MAX_COMPARED_CHARACTERS] for text in checked.texts))
    if lost.share > limit:
        yield Finding(
            problem=f"evaluate.tasks[{index}].path: the tokenizer of base.model cannot represent {lost.share:.1%} of "
            f"the characters of these texts (at most {limit:.1%}), for example {lost.examples}",
            remedy="remove the task, give texts in a language that the tokenizer covers, or choose another base model",
        )


def _few_heldout(subject: Subject, task: Task, index: int) -> Iterator[Finding]:
    """Yield a warning if a small pool holds out too few passages for an interval; no passage at all is a problem."""
    if not isinstance(task, BitsPerByteTask) or task.heldout_pool not in DOCUMENT_POOLS:
        return
    config = subject.config
    records = read_small_pool(config.curation, task.heldout_pool)
    heldout = [
        record
        for record in distinct_heldout(records, config.curation.heldout_fraction, config.data_seed)
        if task.source in ("", record.source)
    ]
    found = count(heldout, config.curation.heldout_fraction, task.passage_characters)
    if not found.num_passages or found.is_enough:
        return
    better = None if task.source else choose_heldout(records, config.data_seed)
    remedy = "add documents, or questions about them"
    if better:
        remedy = f"set curation.heldout_fraction: {better.fraction:g}"
        if better.passage_characters:
            remedy += f" and evaluate.tasks[{index}].passage_characters: {better.passage_characters}"
    number = f"{found.num_passages} passage{'' if found.num_passages == 1 else 's'}"
    yield Finding(
        problem=f"evaluate.tasks[{index}]: {task.name} measures {number} of held-out text; fewer than {MIN_PASSAGES} "
        "have no interval, so its change is shown without one",
        remedy=remedy,
        is_warning=True,
    )
