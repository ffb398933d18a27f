"""A small base model for a trial: random weights, and a tokenizer learned from the documents of a configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS, PAD = SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
_BATCH = 256


@dataclass(frozen=True)
class Shape:
    """Size of a Llama with tied embeddings."""

    vocabulary: int = 8192
    """Tokens of the byte-level BPE vocabulary, special ones included."""
    hidden: int = 256
    """Width."""
    layers: int = 6
    """Depth."""
    heads: int = 4
    """Attention heads; a divisor of `hidden`."""
    context: int = 1024
    """Longest text, in tokens."""

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers: 8/3 of `hidden`, a multiple of 64."""
        return -(-self.hidden * 8 // 3 // 64) * 64


def write_new_base(folder: Path, corpus: ArtifactRef, shape: Shape, *, seed: int) -> int:
    """Returns the number of parameters of an untrained model after writing it with its tokenizer into `folder`.

    Raises:
        ModelError: If the folder holds something, or the shape is none that a network can have.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty", "name a new folder in base.model, or empty this one first")
    if shape.hidden % shape.heads or (shape.hidden // shape.heads) % 2:
        raise ModelError(f"{shape.heads} heads cannot share a width of {shape.hidden}: each needs an even part of it")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(corpus, shape.vocabulary),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def _trained_tokenizer(corpus: ArtifactRef, vocabulary: int) -> "Tokenizer":
    """Returns a byte-level BPE tokenizer that puts `<s>` before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(corpus), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def _texts(corpus: ArtifactRef) -> Iterator[str]:
    """Yields every text that training may read; what is held out stays unseen."""
    import pyarrow.parquet as parquet

    for name, columns in (
        ("documents", ("text",)),
        ("instructions", ("prompt", "response")),
        ("preferences", ("prompt", "chosen")),
    ):
        for batch in parquet.ParquetFile(corpus.file(f"{name}.parquet")).iter_batches(_BATCH, columns=list(columns)):
            for column in columns:
                yield from batch.column(column).to_pylist()
