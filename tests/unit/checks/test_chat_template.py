"""Chat templates that cannot be used are refused with file and line; usable ones are accepted."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mixcpt.checks import chat_template
from mixcpt.store.models import ModelRef
from tests.unit.checks.checked_models import edit, problems, subject, warnings, without_chat

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
)
PROMPT = "{% if add_generation_prompt %}<|assistant|> {% endif %}"


@pytest.fixture
def folder(tiny_model: ModelRef, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.path, tmp_path / "model")


def give(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def test_usual_templates_are_accepted_without_a_warning(folder: Path, shared_data: Path) -> None:
    assert not [*chat_template.check(subject(folder))]
    for name in ("plain", "chatml"):
        assert not [*chat_template.check(subject(folder, chat_template=name))]
    give(folder, TURNS + PROMPT)
    assert not [*chat_template.check(subject(folder))]


REFUSED = {
    "{% for m in messages %}{{ m.content }": "cannot be rendered: unexpected '}' (line 1",
    "\n\n{% for m in messages %}\n{{ m.content }}\n": "cannot be rendered: Unexpected end of template",
    "{# one #}\n{{ messages | no_such_filter }}": "(line 2, '{{ messages | no_such_filter }}')",
    "one\n{{ raise_exception('no thanks') }}": "no thanks (line 2, \"{{ raise_exception('no thanks') }}\")",
    "{{ messages[0].parts.text }}": "cannot be rendered: ",
    "{{ 1 / 0 }}": "division by zero (line 1",
    "{% if messages[0].role != 'system' %}{{ raise_exception('system!') }}{% endif %}" + TURNS: (
        "needs a system message, which samples do not have: system!"
    ),
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}": "drops the assistant turn",
    "{% for m in messages if m.role == 'assistant' %}{{ m.content }}</s>{% endfor %}": "drops the user turn",
    "fixed text": "drops the user turn",
    "{{ messages[0].content }}{{ messages[1].content if messages[1] }}</s>": (
        "drops the second user turn of a conversation of two questions"
    ),
    "{% for m in messages[-2:] %}{{ m.content }}</s>{% endfor %}": "drops the first user turn",
    "{% for m in messages %}{{ m.content | e }}</s>{% endfor %}": "escapes the text of the user turn",
    "{% for m in messages %}{{ m.content | tojson }}</s>{% endfor %}": "changes the text of the user turn",
    "{% for m in messages %}{{ m.content[:20] }}</s>{% endfor %}": "changes the text of the user turn",
    "{% for m in messages %}{{ m.content if m.role == 'user' else m.content.split() | join(' ') }}</s>{% endfor %}": (
        "changes the text of the assistant turn"
    ),
    "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + TURNS: (
        "cannot render a conversation of two questions: one question only"
    ),
}


@pytest.mark.parametrize("template", REFUSED)
def test_unusable_templates_are_refused_with_file_and_reason(template: str, folder: Path) -> None:
    give(folder, template)
    [problem] = problems(chat_template.check, subject(folder))
    assert problem.startswith(f"base.chat_template: the template in {folder / 'chat_template.jinja'} ")
    assert REFUSED[template] in problem
    assert "-> correct the template, or set base.chat_template to plain or chatml" in problem
    assert not problems(chat_template.check, subject(folder, chat_template="plain"))


def test_unbounded_operation_in_one_of_several_templates_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template={"default": "{{ '{:>9999999999}'.format(1) }}"})
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    [problem] = problems(chat_template.check, subject(folder))
    assert "too large to compute" in problem


def test_template_that_never_ends_is_refused_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcpt.checks.chat_template._SECONDS", 0.3)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    give(folder, loops)
    [problem] = problems(chat_template.check, subject(folder))
    assert "cannot be rendered: it did not end within 0.3 seconds" in problem


WARNED = {
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}": (
        "writes no control token after an answer; </s> is added there in training"
    ),
    TURNS: "ignores add_generation_prompt, so the model learns to write '<|assistant|> ' itself",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS + PROMPT: (
        "refuses system messages: no system role"
    ),
}


@pytest.mark.parametrize("template", WARNED)
def test_surprising_templates_are_a_warning(template: str, folder: Path) -> None:
    give(folder, template)
    checked = subject(folder)
    assert not problems(chat_template.check, checked)
    [warning] = warnings(chat_template.check, checked)
    assert WARNED[template] in warning


def test_template_of_the_settings_is_named_by_its_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("one\n{% if %}")
    [problem] = problems(chat_template.check, subject(folder, chat_template=str(file)))
    assert problem.startswith(f"base.chat_template: the template {file} cannot be rendered")
    assert "(line 2" in problem


@pytest.mark.parametrize("setting", ["no-such-template", "/nowhere/mine.jinja", "/tmp"])
def test_template_that_is_no_file_is_refused(setting: str, folder: Path) -> None:
    [problem] = problems(chat_template.check, subject(folder, chat_template=setting))
    assert problem.startswith(f"base.chat_template {setting!r} is neither a template of mixcpt")


def test_absent_template_matters_only_for_alignment(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    checked = subject(folder)
    [problem] = problems(chat_template.check, checked)
    assert problem.startswith("base.chat_template is not set")
    assert not problems(chat_template.check, without_chat(checked))
