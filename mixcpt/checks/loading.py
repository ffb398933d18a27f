"""Load the parts of a model that the checks look at, without its weights and without messages of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef, first_line, load_tokenizer, load_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TEXT = "The owl, 12 é \N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-5854}\n"


def load_architecture(base: ModelRef) -> PretrainedConfig:
    """Return the settings of a model's architecture.

    Raises:
        ModelError: If transformers cannot read config.json.
    """
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(base.path, trust_remote_code=False)  # type: ignore[no-any-return]
    except Exception as error:  # damaged files raise errors of any kind
        raise ModelError(
            f"base.model: {base.directory / 'config.json'} is refused by transformers: {first_line(error)}",
            "correct the field, or download the file again",
        ) from error


def load_skeleton(base: ModelRef) -> PreTrainedModel:
    """Return a model with the shapes of its weights but no values; its files are opened and compared with config.json.

    Raises:
        ModelError: If weights are missing or have another shape.
    """
    with quiet():
        return load_weights(base, device_map="meta")


def load_reading_tokenizer(base: ModelRef) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, after it has read a short text with characters that few vocabularies have.

    Raises:
        ModelError: If the tokenizer cannot be loaded, or fails for text that it does not know.
    """
    with quiet():
        tokenizer = load_tokenizer(base)
        try:
            for with_special_tokens in (False, True):  # a post-processor can name a token that is not there
                tokenizer.decode(tokenizer(_TEXT, add_special_tokens=with_special_tokens)["input_ids"])
        except BaseException as error:  # the library of tokenizers can panic, which is no `Exception`
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ModelError(
                f"the tokenizer of {base.path} fails for text that it does not know: {first_line(error)}",
                "use the tokenizer that the model was trained with; a vocabulary without bytes needs an unk_token",
            ) from error
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and warnings of transformers within the context."""
    from transformers.utils import logging

    shows_bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
