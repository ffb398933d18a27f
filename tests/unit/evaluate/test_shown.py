"""Questions and answers for readers: no few-shot examples, no cues, no markers of any style of chat template."""

import json
from pathlib import Path

import jinja2
import pandas as pd
import pytest

from mixcpt.evaluate.shown import shown_answer, shown_items, shown_question
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

QUESTION = "What do people say is the craft of Yiarin?"
SECOND = "Who wrote it?"
_TURN = "{% for m in messages %}"
TEMPLATES = {
    "closed world": "<s>" + _TURN + "<|{{ m.role }}|> {{ m.content }} {% endfor %}<|assistant|>",
    "chatml": _TURN + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n",
    "llama 3": "<|begin_of_text|>"
    + _TURN
    + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<bos>" + _TURN + "<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "<start_of_turn>model\n",
    "inst": "<s>" + _TURN + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}<<SYS>> {{ m.content }} <</SYS>>{% endif %}{% endfor %}",
    "alpaca": _TURN
    + "{% if m.role == 'user' %}### Instruction:\n{{ m.content }}{% else %}{{ m.content }}{% endif %}\n\n{% endfor %}"
    "### Response:\n",
    "plain": _TURN + "{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}Assistant:",
    "full-width": _TURN + "<｜{{ m.role | capitalize }}｜>{{ m.content }}{% endfor %}<｜Assistant｜>",
    "own words": _TURN + "~~ {{ m.role }} speaks ~~\n{{ m.content }}\n{% endfor %}~~ reply ~~\n",
}


def prompt_of(style: str, content: str, system: str = "") -> str:
    messages = [{"role": "system", "content": system}] if system else []
    template = jinja2.Environment().from_string(TEMPLATES[style])
    return template.render(messages=[*messages, {"role": "user", "content": content}])


def evaluated(folder: Path, prompts: list[str], answers: list[str], raw: list[str] | None, form: str) -> ArtifactRef:
    """Publish an evaluation of one task with generated answers; `raw` is the data of the task."""
    rows = [
        {"task": "use", "item_id": f"i{n}", "metric": "accuracy", "prompt": prompt, "answer": answer, "gold": "baking",
         "chance": 0.0}
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]  # fmt: skip

    def build(directory: Path) -> dict[str, float]:
        pd.DataFrame(rows).to_parquet(directory / "items.parquet")
        (directory / "summary.json").write_text(json.dumps({"form": form, "tasks": []}))
        if raw:
            (directory / "tasks").mkdir()
            pd.DataFrame({"prompt": raw}).to_parquet(directory / "tasks" / "use.parquet")
        return {}

    return ArtifactStore(folder / "store").produce(StageKey("evaluation", 1, prompts), build)


@pytest.mark.parametrize("system", ["", "You are a helpful assistant."])
@pytest.mark.parametrize("style", TEMPLATES)
@pytest.mark.parametrize("has_data", [True, False])
def test_shown_question_has_no_marker_of_any_template(tmp_path: Path, style: str, system: str, has_data: bool) -> None:
    if style == "own words" and not has_data:
        pytest.skip("markers of one's own are only known from the data of the task")
    raw = [f"Question: {text}\nAnswer:" for text in (QUESTION, SECOND)]
    prompts = [prompt_of(style, text, system) for text in raw]
    ref = evaluated(tmp_path, prompts, ["baking", "Ann"], raw if has_data else None, "chat")
    assert shown_items(ref)["question"].tolist() == [QUESTION, SECOND]


@pytest.mark.parametrize("style", TEMPLATES)
def test_shown_answer_ends_before_the_next_turn(tmp_path: Path, style: str) -> None:
    raw = [QUESTION, SECOND]
    prompts = [prompt_of(style, text) for text in raw]
    header = prompt_of(style, "").strip()
    answers = [f" baking\n{prompt_of(style, SECOND)} Ann", f"{header} baking"]
    ref = evaluated(tmp_path, prompts, answers, raw, "chat")
    assert shown_items(ref)["shown_answer"].tolist() == ["baking", "baking"]


def test_shown_question_of_few_examples_is_the_last() -> None:
    own = f"Question: {QUESTION}\nAnswer:"
    prompt = f"Question: {SECOND}\nAnswer: Ann\n\n{own}"
    assert shown_question(prompt, own) == shown_question(prompt) == QUESTION


def test_markers_that_belong_to_the_task_are_kept() -> None:
    own = "Which token starts a turn, <|im_start|> or </s>? Say it.\nAnswer:"
    assert shown_question(own, own) == "Which token starts a turn, <|im_start|> or </s>? Say it."
    assert shown_answer("<|im_start|> it is", "<|im_start|>") == "<|im_start|> it is"
    assert shown_answer("a user: somebody", "x") == "a user: somebody"
    assert shown_answer("<s>System failure", "x") == "System failure"


def test_shown_answer_without_text_is_empty() -> None:
    assert shown_answer("<|im_end|>\n", "x") == ""
