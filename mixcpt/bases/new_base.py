"""Write a small base model with random weights and a tokenizer learned from the documents of a configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactRef

BOS, EOS, PAD = SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
_BATCH = 256
_COLUMNS = {"documents": ["text"], "instructions": ["prompt", "response"], "preferences": ["prompt", "chosen"]}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Llama network with tied embeddings."""

    hidden: int = 256
    """Width of the network."""
    layers: int = 6
    heads: int = 4
    """Number of attention heads; must divide `hidden`."""
    context: int = 1024
    """Maximum length of a text, in tokens."""

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers: 8/3 of `hidden`, a multiple of 64."""
        return -(-self.hidden * 8 // 3 // 64) * 64


def write_new_base(folder: Path, corpus: ArtifactRef, shape: Shape, *, vocabulary: int, seed: int) -> int:
    """Write an untrained model and its tokenizer into `folder`, and return its number of parameters.

    `vocabulary` is the size of the byte-level BPE vocabulary, with special tokens.

    Raises:
        ModelError: If the folder is not empty, or the heads do not divide the width into even parts.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty", "name a new folder in base.model, or empty this one")
    if shape.hidden % shape.heads or (shape.hidden // shape.heads) % 2:
        problem = f"{shape.heads} heads cannot divide a width of {shape.hidden} into even parts"
        raise ModelError(problem, "choose a width that is a multiple of 2 x heads")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(corpus, vocabulary),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    return write_llama(folder, tokenizer, shape, seed=seed)


def write_llama(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: Shape, *, seed: int) -> int:
    """Write a network with random weights and its tokenizer into `folder`, and return its number of parameters."""
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


def _trained_tokenizer(corpus: ArtifactRef, vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer that puts `<s>` before every text."""
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
    """Yield every text of the training pools; held-out documents are not in these files."""
    for name, columns in _COLUMNS.items():
        for batch in parquet.ParquetFile(corpus.file(f"{name}.parquet")).iter_batches(_BATCH, columns=columns):
            for column in columns:
                yield from batch.column(column).to_pylist()
