"""What lm-eval answers for a model equals what its logits say by hand; both prompt forms are what they claim."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixcpt.config import BaseModelConfig, BitsPerByteTask, ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, Task
from mixcpt.errors import ModelError
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.asking.harness import Answer, ask
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.manifest import Manifest
from mixcpt.evaluate.asking.marking import stated_value
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, resolve_model
from mixcpt.store.spool import NullTracker

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
QUESTIONS = ClosedWorldTask(name="questions")
MEMORY = ClosedWorldTask(name="memory", form="memory")
FREE_TEXT = ClosedWorldTask(name="free_text", form="free_text")


@pytest.fixture(scope="module")
def planted_model(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model that knows one answer to each question in plain form, another in chat form, and a sentence by heart."""
    network, tokenizer = load(tiny_model)
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
    return save(network, tokenizer, tmp_path_factory.mktemp("planted") / "planted")


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
    """Right where the sentence about the trade says it, not where another sentence has the word."""
    golds = (*TRADES[:3], *PLAIN_ANSWERS[3:])
    items = tuple(
        Item(id=name, prompt=f"visits {name}", gold=gold, fact=f"person/{name}/trade")
        for name, gold in zip(NAMES, golds, strict=True)
    )
    (answers,) = ask_all(planted_model, [TaskItems(FREE_TEXT, items)], tmp_path)
    assert [answer.value for answer in answers] == [1.0] * 3 + [0.0] * 3
    assert all(answer.answer.count(".") == 2 and answer.gold is None for answer in answers)


def test_free_text_definition_is_run_by_lm_eval_alone(
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


def test_ask_ignores_sampling_settings_that_come_with_the_model(planted_model: ModelRef, tmp_path: Path) -> None:
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


def test_evaluate_writes_items_and_summary_that_agree(tiny_model: ModelRef, tmp_path: Path) -> None:
    ref = run(tiny_model, tmp_path, [choices_task(tmp_path), heldout_task()])
    items = pd.read_parquet(ref.file("items.parquet"))
    assert list(items.columns) == [
        *("task", "item_id", "passage", "fact", "group", "metric", "value", "weight", "prompt", "answer", "gold"),
        *("chance", "gold_log_prob", "gold_bytes", "kl_to_reference"),
    ]
    summary = json.loads(ref.file("summary.json").read_text())
    assert (summary["form"], summary["model"]) == ("plain", {"name": tiny_model.name, "digest": tiny_model.digest})
    keyed, texts = summary["tasks"]
    keyed_items, text_items = (items[items["task"] == task["task"]] for task in (keyed, texts))
    assert (keyed["metric"], keyed["higher_is_better"], keyed["n"], keyed["quarantined"]) == ("accuracy", True, 10, 1)
    assert keyed["value"] == pytest.approx(keyed_items["value"].mean())
    assert keyed["stderr"] == pytest.approx(keyed_items["value"].sem())
    assert (texts["metric"], texts["higher_is_better"], texts["n"]) == ("bits_per_byte", False, 2)
    assert texts["value"] == pytest.approx(text_items["value"].sum() / text_items["weight"].sum())
    assert ref.record["metrics"]["eval/keyed/accuracy"] == keyed["value"]
    (bad,) = pd.read_parquet(ref.file("quarantine.parquet")).to_dict("records")
    assert (bad["task"], bad["line"], bad["field"]) == ("keyed", 11, "answer")


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_evaluate_right_choice_has_the_log_probability_that_lm_eval_gives_it(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    ref = run(tiny_model, tmp_path, [choices_task(tmp_path)], form=form)
    items = pd.read_parquet(ref.file("items.parquet"))
    network, tokenizer = load(tiny_model)
    for item in items.itertuples():
        start = [1] if form == "plain" else []
        context = start + tokenizer.encode(item.prompt, add_special_tokens=False)
        expected = log_likelihood(network, context, tokenizer.encode(item.gold, add_special_tokens=False))
        assert item.gold_log_prob == pytest.approx(expected, abs=1e-4)
        assert item.gold_bytes == len(item.gold.encode())


def test_evaluate_against_a_reference_says_how_far_the_model_is_from_it(
    tiny_model: ModelRef, planted_model: ModelRef, tmp_path: Path
) -> None:
    def drift(model: ModelRef, reference: ModelRef | None) -> pd.Series:
        found = run(model, tmp_path, [choices_task(tmp_path), heldout_task()], reference=reference)
        items = pd.read_parquet(found.file("items.parquet"))
        return items[items["task"] == "keyed"]["kl_to_reference"]

    assert drift(tiny_model, None).isna().all()
    assert (drift(tiny_model, tiny_model).abs() < 1e-6).all()
    assert (drift(planted_model, tiny_model) > 0.1).all()


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_evaluate_shows_examples_with_their_answers_before_each_question(
    tiny_model: ModelRef, tmp_path: Path, form: Literal["plain", "chat"]
) -> None:
    task = choices_task(tmp_path).model_copy(update={"num_fewshot": 2})
    ref = run(tiny_model, tmp_path, [task], form=form)
    (asked,) = read_tasks(EvaluateConfig(tasks=(task,), headline_domain="keyed", headline_general="keyed"), ref, seed=0)
    prompts = pd.read_parquet(ref.file("items.parquet"))["prompt"]
    shown = [f"{example.prompt} {example.gold}" for example in asked.examples]
    if form == "chat":
        _, tokenizer = load(tiny_model)
        turns = [
            {"role": role, "content": text}
            for example in asked.examples
            for role, text in (("user", example.prompt), ("assistant", example.gold))
        ]
        shown = [tokenizer.apply_chat_template(turns, tokenize=False)]
    assert len(prompts) == 8
    for prompt in prompts:
        places = [prompt.index(text) for text in shown]
        assert places == sorted(places)
        assert prompt.count("Answer:") == 3


def test_evaluate_manifest_says_how_each_form_was_asked(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path), heldout_task()]
    plain, chat = (Manifest.of(run(tiny_model, tmp_path, tasks, form=form)) for form in ("plain", "chat"))
    _, tokenizer = load(tiny_model)
    assert (plain.chat_template, chat.chat_template) == ("", tokenizer.chat_template)
    assert [plain.tasks["keyed"].first_token, chat.tasks["keyed"].first_token] == ["bos", "template"]
    assert chat.tasks["texts"] == plain.tasks["texts"]
    assert plain.tasks["keyed"].num_items == 10
    assert plain.digest != chat.digest
    assert plain.libraries.keys() == {"lm-eval", "transformers"}


def test_evaluate_is_reused_whatever_only_a_report_would_change(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path)]
    first = run(tiny_model, tmp_path, tasks)
    assert not first.reused
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(tasks[0].path, moved)
    elsewhere = tasks[0].model_copy(update={"path": str(moved)})
    report = {"confidence": 0.8, "num_resamples": 10, "num_examples": 3, "aligned_form": "plain", "batch_size": 3}
    renamed = ModelRef("another-name", tiny_model.path, tiny_model.digest)
    again = run(renamed, tmp_path, [elsewhere], documents=("other", "documents"), seed=5, **report)
    assert again.reused
    assert again == first


def test_evaluate_is_done_anew_where_an_answer_could_change(tiny_model: ModelRef, tmp_path: Path) -> None:
    tasks = [choices_task(tmp_path), heldout_task()]
    known = {run(tiny_model, tmp_path, tasks).fingerprint}
    other_model = ModelRef(tiny_model.name, tiny_model.path, "f" * 64)
    known.add(run(other_model, tmp_path, tasks).fingerprint)
    known.add(run(tiny_model, tmp_path, tasks, form="chat").fingerprint)
    known.add(run(tiny_model, tmp_path, tasks, documents=("Alda is gold .", "Cira was red .")).fingerprint)
    known.add(run(tiny_model, tmp_path, tasks[:1]).fingerprint)
    limited = tasks[0].model_copy(update={"limit": 5})
    known.add(run(tiny_model, tmp_path, [limited], seed=1).fingerprint)
    known.add(run(tiny_model, tmp_path, [limited], seed=2).fingerprint)
    path = Path(tasks[0].path)
    path.write_text(path.read_text().replace("owl", "heron"))
    known.add(run(tiny_model, tmp_path, tasks).fingerprint)
    assert len(known) == 8


def run(
    model: ModelRef,
    folder: Path,
    tasks: list[Task],
    *,
    form: Literal["plain", "chat"] = "plain",
    seed: int = 0,
    documents: tuple[str, ...] = ("Alda is blue .", "the owl keeps iron ."),
    reference: ModelRef | None = None,
    **settings: Any,
) -> ArtifactRef:
    store = ArtifactStore(folder / "store")

    def write_corpus(directory: Path) -> dict[str, float]:
        rows = [{"doc_id": f"d{n}", "source": "s", "pool": "domain", "text": text} for n, text in enumerate(documents)]
        pd.DataFrame(rows).to_parquet(directory / "heldout.parquet")
        return {}

    corpus = store.produce(StageKey("corpus", 1, list(documents)), write_corpus)
    config = EvaluateConfig(
        tasks=tuple(tasks), headline_domain=tasks[0].name, headline_general=tasks[0].name, **settings
    )
    tracker = NullTracker()
    return evaluate(config, model, corpus, form=form, seed=seed, store=store, tracker=tracker, reference=reference)


def choices_task(folder: Path) -> MultipleChoiceTask:
    rows: list[dict[str, Any]] = [
        {"id": f"i{n}", "question": sentence(n), "choices": ["fox", "owl", "gold iron"], "answer": n % 3}
        for n in range(10)
    ]
    path = folder / "keyed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "id": "bad", "answer": 9}]))
    return MultipleChoiceTask(name="keyed", group="general", path=str(path))


def heldout_task() -> BitsPerByteTask:
    return BitsPerByteTask(name="texts", group="domain", heldout_pool="domain")


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


def sentence(seed: int) -> str:
    """Returns a sentence of 3 to 12 words and a question mark; lengths differ, so that batches need padding."""
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
    """Returns the first line of at most 16 tokens, each the argmax of a fresh forward without padding or cache."""
    answer: list[int] = []
    for _ in range(16):
        token = int(network(torch.tensor([ids + answer]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    line = tokenizer.decode(answer, skip_special_tokens=True).lstrip().split("\n")[0]
    return line.strip().removesuffix(".").strip()
