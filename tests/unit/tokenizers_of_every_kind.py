"""Small real tokenizers of three families, with and without BOS."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mixcpt.store.models import ModelRef

TEXT = (
    "The owl keeps an old tower. The river is wide, and the heron likes it! Where does Dr. Fox live?  "
    "Naïve café façade; 東京は大きい。 Ωmega 🦉🦊 مرحبا بالعالم. One more sentence here.\n\nA new paragraph\tbegins. "
)
FAMILIES = ("byte_level", "word_piece", "metaspace")


def write_tokenizer(folder: Path, family: str, *, has_bos: bool) -> ModelRef:
    """Write a tokenizer of a family, trained on a short text, and return it as a model without weights."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    tokenizer = _FAMILIES[family](special)
    named = {"bos_token": "<s>"} if has_bos else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token=AddedToken("</s>"), **named
    )
    fast.save_pretrained(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    return ModelRef(family, str(folder), family)


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    return tokenizer


def _word_piece(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        [TEXT] * 5, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    return tokenizer


def _metaspace(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    return tokenizer


_FAMILIES = {"byte_level": _byte_level, "word_piece": _word_piece, "metaspace": _metaspace}
