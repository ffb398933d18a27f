"""Characters that a tokenizer loses are counted; normalisation of text is not a loss."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mixcpt.mixture.lost_text import lost_share, lost_text
from mixcpt.store.models import load_tokenizer
from tests.unit.tokenizers_of_every_kind import write_tokenizer

ENGLISH = "The keeper of the old lighthouse wrote down what he saw that night. "


def spelling(*, unk: str | None, normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the characters of an English sentence, with or without an unknown token."""
    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    if normalizer:
        tokenizer.normalizer = normalizer
    special = [unk] if unk else []
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([ENGLISH], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unk)


@pytest.mark.parametrize("unk", [None, "<unk>"])
@pytest.mark.parametrize(
    ("text", "share"), [(ENGLISH, 0.0), ("灯塔建于", 1.0), ("the 灯塔 ", 2 / 5), ("", 0.0), (" \n\t", 0.0)]
)
def test_lost_share_of_characters_that_the_vocabulary_lacks_is_exact(unk: str | None, text: str, share: float) -> None:
    assert lost_share(spelling(unk=unk), [text]) == pytest.approx(share)


def test_lost_text_of_byte_level_tokenizer_is_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, "byte_level", has_bos=True))
    texts = ["灯塔 “quotes” 🦉 \x00 é e\u0301 </s> <unk>", ENGLISH * 2_000, "مرحبا ไทย हिन्दी"]
    assert not lost_text(tokenizer, texts).lost


@pytest.mark.parametrize(
    ("normalizer", "text"),
    [
        (normalizers.NFKC(), "ｔｈｅ ｋｅｅｐｅｒ"),
        (normalizers.Replace("\n", " "), "the\n\n\nkeeper"),
        (normalizers.Strip(), "   the keeper   "),
    ],
)
def test_lost_text_does_not_count_normalised_text(normalizer: normalizers.Normalizer, text: str) -> None:
    result = lost_text(spelling(unk="<unk>", normalizer=normalizer), [text])
    assert (result.share, result.changed_share) == (0.0, 0.0)


def test_lost_text_counts_lower_casing_and_removed_accents_as_changed() -> None:
    lower = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    result = lost_text(spelling(unk="<unk>", normalizer=lower), ["THE KÉEPER of the old lighthouse"])
    assert result.share == 0.0
    assert result.changed == len("THEKÉEPER")


def test_lost_text_names_the_most_frequent_lost_characters_first() -> None:
    assert lost_text(spelling(unk=None), ["the €€€ keeper §"]).examples == "€ §"


def test_lost_text_does_not_let_one_text_make_up_for_another() -> None:
    """An end token in one text must not hide that another text loses the same letters."""
    assert lost_text(spelling(unk=None), ["the keeper", "Ж"]).lost == {"Ж": 1}
