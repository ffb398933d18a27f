"""lm-eval's results for a model equal hand computations from its logits, in both prompt forms."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mixcpt.config import BitsPerByteTask, ClosedWorldTask, MultipleChoiceTask
from mixcpt.errors import ModelError
from mixcpt.evaluate.asking.harness import Answer, ask
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.marking import stated_value
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from tests.unit.planted_models import (
    CHAT_ANSWERS,
    CONTEXT_TOKENS,
    NAMES,
    PLAIN_ANSWERS,
    TRADES,
    WORDS,
    greedy,
    load,
    log_likelihood,
    plant,
    save,
    sentence,
)

QUESTIONS = ClosedWorldTask(name="questions")
MEMORY = ClosedWorldTask(name="memory", form="memory")
FREE_TEXT = ClosedWorldTask(name="free_text", form="free_text")


@pytest.fixture(scope="module")
def planted_model(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return plant(tiny_model, tmp_path_factory.mktemp("planted") / "planted")


@pytest.mark.parametrize(("form", "right"), [("plain", PLAIN_ANSWERS), ("chat", CHAT_ANSWERS)])
def test_ask_questions_finds_what_was_planted_in_that_form_only(
    planted_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"], right: tuple[str, ...]
) -> None:
    items = [Item(id=name, prompt=f"what is {name} ?", gold=gold) for name, gold in zip(NAMES, right, strict=True)]
    wrong = [
        Item(id=name, prompt=f"what is {name} ?", gold=gold)
        for name, gold in zip(NAMES, right[1:] + right[:1], strict=True)
    ]
    tasks = [TaskItems(QUESTIONS, tuple(items)), TaskItems(ClosedWorldTask(name="wrong"), tuple(wrong))]
    answers, wrong_answers = ask_all(planted_model, tasks, tmp_path, form=form)
    assert [answer.answer for answer in answers] == list(right)
    assert [answer.value for answer in answers] == [1.0] * 6
    assert [answer.value for answer in wrong_answers] == [0.0] * 6


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_ask_memory_is_plain_in_both_forms_and_takes_the_next_word(
    planted_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    items = [
        Item(id=name, prompt=f"the trade of {name} is", gold=gold) for name, gold in zip(NAMES, TRADES, strict=True)
    ]
    (answers,) = ask_all(planted_model, [TaskItems(MEMORY, tuple(items))], tmp_path, form=form)
    assert [answer.prompt for answer in answers] == [item.prompt for item in items]
    assert [answer.value for answer in answers] == [1.0] * 6


def test_ask_for_a_free_text_looks_for_the_sentence_about_the_relation(planted_model: ModelRef, tmp_path: Path) -> None:
    """The sentence about the trade must state the value; the word in another sentence does not count."""
    golds = (*TRADES[:3], *PLAIN_ANSWERS[3:])
    items = tuple(
        Item(id=name, prompt=f"visits {name}", gold=gold, fact=f"person/{name}/trade")
        for name, gold in zip(NAMES, golds, strict=True)
    )
    (answers,) = ask_all(planted_model, [TaskItems(FREE_TEXT, items)], tmp_path)
    assert [answer.value for answer in answers] == [1.0] * 3 + [0.0] * 3
    assert all(answer.answer.count(".") == 2 and answer.gold is None for answer in answers)


def test_free_text_definition_runs_in_plain_lm_eval(
    planted_model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item(id="a", prompt=f"<s> visits {NAMES[0]}", gold=TRADES[0], fact=f"person/{NAMES[0]}/trade")
    ask_all(planted_model, [TaskItems(FREE_TEXT, (item,))], tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = TaskManager(include_path="tasks", include_defaults=False).load(["free_text"])
    network, tokenizer = load(planted_model)
    results = lm_evaluate(HFLM(pretrained=network, tokenizer=tokenizer), loaded, bootstrap_iters=0)
    assert results["results"]["free_text"]["exact_match,answer"] == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Alda is a smith. The ore of Alda is iron.", 1.0),
        ("The ore of Alda is iron. For Alda, the ore is gold.", 0.0),
        ("For Alda, the ore, is iron", 1.0),
        ("Alda likes iron. The ore of Alda is gold.", 0.0),
        ("Alda has iron.", 0.0),
        ("", 0.0),
    ],
)
def test_stated_value_needs_every_sentence_about_the_relation_to_end_with_it(text: str, value: float) -> None:
    assert stated_value({"relation": "ore", "gold": "iron"}, [text]) == {"exact_match": value}


def test_ask_puts_questions_as_plain_line_or_as_user_turn(tiny_model: ModelRef, tmp_path: Path) -> None:
    choices = MultipleChoiceTask(name="choices", group="domain", path="")
    tasks = [
        TaskItems(QUESTIONS, (Item(id="a", prompt="what is Alda ?", gold="fox"),)),
        TaskItems(choices, (Item(id="b", prompt="what is Alda ?", gold="fox", choices=("owl", "fox")),)),
        TaskItems(BitsPerByteTask(name="bits", group="domain", path="x"), (Item(id="c", prompt="Alda is blue ."),)),
    ]
    plain = [answers[0].prompt for answers in ask_all(tiny_model, tasks, tmp_path / "plain", form="plain")]
    chat = [answers[0].prompt for answers in ask_all(tiny_model, tasks, tmp_path / "chat", form="chat")]
    assert plain == ["what is Alda ?\n", "what is Alda ?", "Alda is blue ."]
    assert chat == ["<|user|> what is Alda ? <|assistant|>"] * 2 + ["Alda is blue ."]


@pytest.mark.parametrize("batch_size", [1, 16])
def test_ask_questions_batched_equals_greedy_decoding_one_by_one(
    planted_model: ModelRef, tmp_path: Path, batch_size: int
) -> None:
    items = [Item(id=str(n), prompt=sentence(n), gold="fox") for n in range(12)]
    (answers,) = ask_all(planted_model, [TaskItems(QUESTIONS, tuple(items))], tmp_path, batch_size=batch_size)
    network, tokenizer = load(planted_model)
    expected = [greedy(network, tokenizer, [1, *tokenizer.encode(item.prompt + "\n")]) for item in items]
    assert [answer.answer for answer in answers] == expected
    assert len(set(expected)) > 3


def test_ask_ignores_sampling_settings_of_the_model(planted_model: ModelRef, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(planted_model.path, folder)
    settings = {
        "do_sample": True,
        "temperature": 5.0,
        "repetition_penalty": 9.0,
        "eos_token_id": 2,
        "max_new_tokens": 1,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tasks = [TaskItems(QUESTIONS, tuple(Item(id=str(n), prompt=sentence(n), gold="fox") for n in range(12)))]
    loud = ask_all(ModelRef("loud", str(folder), ""), tasks, tmp_path / "loud")
    assert len({answer.answer for answer in loud[0]}) > 3
    assert loud == ask_all(planted_model, tasks, tmp_path / "plain")


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_ask_choices_takes_the_likeliest_by_hand_computed_log_likelihood(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    rng = random.Random(0)
    items = []
    for n in range(16):
        choices = tuple(" ".join(rng.sample(WORDS, rng.randint(1, 3))) for _ in range(4))
        items.append(Item(id=str(n), prompt=sentence(n), gold=choices[n % 4], choices=choices))
    task = TaskItems(MultipleChoiceTask(name="choices", group="domain", path=""), tuple(items))
    (answers,) = ask_all(tiny_model, [task], tmp_path, form=form, batch_size=7)
    network, tokenizer = load(tiny_model)
    for item, answer in zip(items, answers, strict=True):
        context = [1, *tokenizer.encode(item.prompt)]
        if form == "chat":
            turn = [{"role": "user", "content": item.prompt}]
            context = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        scores = [log_likelihood(network, context, tokenizer.encode(choice)) for choice in item.choices]
        per_character = [score / len(choice) for score, choice in zip(scores, item.choices, strict=True)]
        assert answer.answer == item.choices[scores.index(max(scores))]
        assert answer.value == float(answer.answer == item.gold)
        if form == "plain":
            likeliest = item.choices[per_character.index(max(per_character))]
            assert answer.value_normalised == float(likeliest == item.gold)
    assert 0 < sum(answer.value for answer in answers) < 16


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_ask_reads_control_tokens_in_questions_and_choices_as_text(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    """A control token that acts would make the prompt shorter than its words."""
    choices = ("Alda </s>", "Boren", "Cira", "Dovan")
    item = Item(id="0", prompt="who </s> keeps <|user|> the fox ?", gold=choices[0], choices=choices)
    task = TaskItems(MultipleChoiceTask(name="choices", group="domain", path=""), (item,))
    ((answered,),) = ask_all(tiny_model, [task], tmp_path, form=form)
    assert item.prompt in answered.prompt
    network, tokenizer = load(tiny_model)
    spelled = tokenizer("who </s> keeps <|user|> the fox ?", split_special_tokens=True)["input_ids"]
    context = [1, *spelled] if form == "plain" else [4, *spelled, 5]
    ids = [tokenizer(choice, split_special_tokens=True)["input_ids"] for choice in choices]
    scores = [log_likelihood(network, context, choice) for choice in ids]
    assert answered.answer == choices[scores.index(max(scores))]


def test_ask_bits_equals_hand_computation_with_one_bos_and_without_the_end(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    texts = [sentence(n) for n in range(5)]
    answers = bits(tiny_model, texts, tmp_path)
    network, tokenizer = load(tiny_model)
    for text, answer in zip(texts, answers, strict=True):
        expected = -log_likelihood(network, [1], tokenizer.encode(text)) / math.log(2)
        assert answer.value == pytest.approx(expected, rel=1e-5)
        assert answer.weight == len(text.encode())


def test_ask_bits_of_a_long_text_counts_every_token_once(tiny_model: ModelRef, tmp_path: Path) -> None:
    network, tokenizer = load(tiny_model)
    text = " ".join(random.Random(1).choices(WORDS, k=2 * CONTEXT_TOKENS + 100))
    ids = tokenizer.encode(text)
    first, second, rest = ids[:CONTEXT_TOKENS], ids[CONTEXT_TOKENS : 2 * CONTEXT_TOKENS], ids[2 * CONTEXT_TOKENS :]
    expected = log_likelihood(network, [1], first)
    expected += log_likelihood(network, first[-1:], second)
    expected += log_likelihood(network, ids[len(ids) - len(rest) - (CONTEXT_TOKENS + 1 - 100) : -100], rest)
    (answer,) = bits(tiny_model, [text], tmp_path)
    assert answer.value == pytest.approx(-expected / math.log(2), rel=1e-5)
    assert not answer.truncated


def test_ask_counts_prompts_that_lose_their_beginning(tiny_model: ModelRef, tmp_path: Path) -> None:
    network, tokenizer = load(tiny_model)
    room = CONTEXT_TOKENS - 16  # an answer has 16 tokens
    lengths = {"short": 3, "fits": room - 2, "long": room - 1, "longer": 300}  # BOS and the line break come on top
    words = {name: " ".join(random.Random(2).choices(WORDS, k=length)) for name, length in lengths.items()}
    items = tuple(Item(id=name, prompt=text, gold="fox") for name, text in words.items())
    keyed = tuple(Item(id=item.id, prompt=item.prompt, gold="fox", choices=("fox", "owl")) for item in items)
    tasks = [TaskItems(QUESTIONS, items), TaskItems(MultipleChoiceTask(name="c", group="domain", path=""), keyed)]
    answers, choices = ask_all(tiny_model, tasks, tmp_path)
    assert [answer.truncated for answer in answers] == [False, False, True, True]
    assert [answer.truncated for answer in choices] == [False, False, False, True]
    kept = tokenizer.encode(words["longer"] + "\n")[-room:]
    assert answers[3].answer == greedy(network, tokenizer, kept)


def test_ask_reports_progress_up_to_all_and_nothing_on_the_terminal(
    tiny_model: ModelRef, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[tuple[int, float, int | None]] = []

    class Recorder:
        def log(self, step: int, metrics: Any, *, total_steps: int | None = None) -> None:
            steps.append((step, metrics["evaluate/progress"], total_steps))

    keyed = tuple(Item(id=str(n), prompt=sentence(n), gold="fox", choices=("fox", "owl")) for n in range(60))
    tasks = [
        TaskItems(MultipleChoiceTask(name="c", group="domain", path=""), keyed),
        TaskItems(QUESTIONS, (Item(id="q", prompt="what is Alda ?", gold="fox"),)),
    ]
    ask(tiny_model, tasks, tmp_path, form="plain", batch_size=8, tracker=Recorder())
    assert steps[-1] == (121, 1.0, 121)
    assert 20 <= len(steps) <= 62
    assert [step for step, _, _ in steps] == sorted({step for step, _, _ in steps})
    assert capfd.readouterr() == ("", "")


def test_ask_in_chat_form_refuses_a_model_without_chat_template(tiny_model: ModelRef, tmp_path: Path) -> None:
    network, tokenizer = load(tiny_model)
    tokenizer.chat_template = None
    bare = save(network, tokenizer, tmp_path / "bare")
    with pytest.raises(ModelError, match=r"has no chat template(.|\n)*base\.chat_template"):
        ask_all(
            bare,
            [TaskItems(QUESTIONS, (Item(id="q", prompt="what is Alda ?", gold="fox"),))],
            tmp_path / "out",
            form="chat",
        )


def ask_all(
    model: ModelRef,
    tasks: list[TaskItems],
    folder: Path,
    *,
    form: Literal["plain", "chat"] = "plain",
    batch_size: int = 16,
) -> list[list[Answer]]:
    folder.mkdir(exist_ok=True)
    return ask(model, tasks, folder, form=form, batch_size=batch_size, tracker=NullTracker())


def bits(model: ModelRef, texts: list[str], folder: Path) -> list[Answer]:
    task = BitsPerByteTask(name="bits", group="domain", path="x")
    (answers,) = ask_all(
        model, [TaskItems(task, tuple(Item(id=str(n), prompt=text) for n, text in enumerate(texts)))], folder
    )
    return answers
