"""The plain text form and the tokens that are scored in it."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken

from mixcpt.config import MixtureConfig, Pool
from mixcpt.errors import ConfigError
from mixcpt.mixture.tokens import PlainText, TextTokenizer, require_row_fits, unify
from mixcpt.store.models import ModelRef, load_tokenizer
from tests.unit.tokenizers_of_every_kind import FAMILIES, write_tokenizer

PAIR = {"prompt": "Who?", "chosen": "Alda.", "rejected": "Boren."}
GOOD_BAD = "Who?\nGood answer: Alda.\nBad answer: Boren."


@pytest.mark.parametrize(
    ("record", "pool", "settings", "text", "scored"),
    [
        ({"text": "A document."}, "domain", {}, "A document.", "A document."),
        ({"text": "A document."}, "general", {"loss_on": "response"}, "A document.", "A document."),
        ({"prompt": "Q?", "response": "R."}, "instructions", {}, "Q?\nR.", "Q?\nR."),
        ({"prompt": "Q?", "response": "R."}, "instructions", {"loss_on": "response"}, "Q?\nR.", "R."),
        ({"prompt": "Q?", "response": "R."}, "instructions", {"separator": " => "}, "Q? => R.", "Q? => R."),
        (PAIR, "preferences", {}, "Who?\nAlda.", "Who?\nAlda."),
        (PAIR, "preferences", {"loss_on": "response"}, "Who?\nAlda.", "Alda."),
        (PAIR, "preferences", {"preference_text": "both"}, GOOD_BAD, GOOD_BAD),
        (
            PAIR,
            "preferences",
            {"preference_text": "both", "loss_on": "response"},
            GOOD_BAD,
            GOOD_BAD.removeprefix("Who?\n"),
        ),
    ],
)
def test_unify_gives_plain_text_and_the_part_that_is_scored(
    record: dict[str, str], pool: Pool, settings: dict[str, str], text: str, scored: str
) -> None:
    plain = unify(record, pool, MixtureConfig(**settings))  # type: ignore[arg-type]
    assert plain.text == text
    assert plain.text[plain.scored_from :] == scored


def test_each_text_is_bos_tokens_eos(tiny_model: ModelRef) -> None:
    tokens = TextTokenizer(tiny_model)([PlainText("the owl"), PlainText(""), PlainText("gold .")])
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.convert_ids_to_tokens(tokens.tokens.tolist()) == [
        *["<s>", "the", "owl", "</s>"],
        *["<s>", "</s>"],
        *["<s>", "gold", ".", "</s>"],
    ]
    assert tokens.lengths.tolist() == [4, 2, 4]
    assert tokens.scored.all()


def test_special_tokens_in_a_text_stay_text_unless_they_are_to_be_parsed(tiny_model: ModelRef) -> None:
    foreign = [PlainText("gold</s>fox<|user|>owl")]
    tokenizer = load_tokenizer(tiny_model)
    special = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")}
    as_text = TextTokenizer(tiny_model)(foreign).tokens[1:-1]  # without the BOS and EOS that we add
    assert not special & set(as_text.tolist())
    parsed = TextTokenizer(tiny_model, parse_special_tokens=True)(foreign).tokens[1:-1]
    assert special <= set(parsed.tolist())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("control", ["</s>", "<s>", "<pad>", "</s></s>", " </s> ", "<|im_end|>", "</s>\U000f0000"])
@pytest.mark.parametrize("is_scored_whole", [True, False])
def test_control_tokens_in_a_text_are_text_for_every_kind_of_tokenizer(
    tmp_path: Path, family: str, control: str, is_scored_whole: bool
) -> None:
    model = write_tokenizer(tmp_path, family, has_bos=True)
    tokenizer = TextTokenizer(model)
    tokenizer.tokenizer.add_tokens([AddedToken("<|im_end|>", special=False)])
    question, answer = f"Where is the {control}owl?\n", f"In the {control}tower."
    text = PlainText(question + answer, 0 if is_scored_whole else len(question))
    tokens = tokenizer([text])
    named = {"</s>", "<s>", "<pad>", "<|im_end|>"}
    assert not named & set(tokenizer.tokenizer.convert_ids_to_tokens(tokens.tokens[1:-1].tolist()))
    plain = tokenizer([replace(text, text=text.text.replace(control, ""))])
    assert len(tokens.tokens) > len(plain.tokens)
    encoded = tokenizer.encode([text.text])[0]
    assert encoded.ids.tolist() == tokens.tokens[1:-1].tolist()
    assert encoded.starts.tolist() == sorted(encoded.starts)
    assert encoded.starts[-1] < len(text.text)
    if not is_scored_whole:
        first = int(encoded.starts[tokens.scored[1:-1]][0])
        assert len(question) - 1 <= first <= len(question)


def test_scored_tokens_are_those_of_the_answer_and_the_end(tiny_model: ModelRef) -> None:
    question, answer = "what is the owl ?\n", "gold ."
    tokens = TextTokenizer(tiny_model)([PlainText(question + answer, len(question)), PlainText("the fox")])
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.convert_ids_to_tokens(tokens.tokens[tokens.scored].tolist()) == [
        *["gold", ".", "</s>"],
        *["<s>", "the", "fox", "</s>"],
    ]


def test_token_across_the_border_of_question_and_answer_is_scored(tiny_model: ModelRef) -> None:
    tokens = TextTokenizer(tiny_model)([PlainText("the heron", len("the her"))])
    assert tokens.scored.tolist() == [False, False, True, True]


def test_real_tokenizer_scores_exactly_the_answer(shared_data: Path) -> None:
    folder = shared_data / "models" / "TinyStories-656K"
    model = ModelRef("t", str(folder), "")
    question, answer = "Who lived in the tree?\n", "A little bird named Mia."
    tokens = TextTokenizer(model)([PlainText(question + answer, len(question))])
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(tokens.tokens[tokens.scored], skip_special_tokens=True).strip() == answer
    whole = [
        tokenizer.bos_token_id,
        *tokenizer(question + answer, add_special_tokens=False).input_ids,
        tokenizer.eos_token_id,
    ]
    assert tokens.tokens.tolist() == whole


def test_row_longer_than_the_model_reads_is_refused(tiny_model: ModelRef) -> None:
    require_row_fits(256, tiny_model)
    with pytest.raises(ConfigError, match=r"row_tokens is 257, but .* at most 256"):
        require_row_fits(257, tiny_model)


def test_model_without_a_known_limit_takes_any_row(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    require_row_fits(10**6, ModelRef("m", str(tmp_path), ""))


def test_limit_inside_a_text_configuration_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 64}}')
    with pytest.raises(ConfigError, match="at most 64"):
        require_row_fits(65, ModelRef("m", str(tmp_path), ""))
