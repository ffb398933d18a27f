"""All kinds of damaged inputs for bad_inputs.py: each makes one case in a folder, and returns outcome and message."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import (
    bad_input_files,
    bad_input_model_files,
    bad_input_models,
    bad_input_records,
    bad_input_settings,
)
from benchmarks.bad_input_damage import Result

_KINDS: tuple[Callable[[Path, random.Random], Result], ...] = (
    bad_input_files.sources,
    bad_input_records.json_documents,
    bad_input_records.containers,
    bad_input_records.encodings,
    bad_input_records.long_lines,
    bad_input_records.paths,
    bad_input_files.questions,
    bad_input_records.question_keys,
    bad_input_records.tables,
    bad_input_settings.settings,
    bad_input_settings.settings_files,
    bad_input_settings.other_settings,
    bad_input_settings.run_names,
    bad_input_models.weights,
    bad_input_model_files.weight_indexes,
    bad_input_models.model_settings,
    bad_input_model_files.config_fields,
    bad_input_model_files.generation_settings,
    bad_input_models.tokenizers,
    bad_input_model_files.added_tokens,
    bad_input_models.templates,
    bad_input_model_files.template_files,
)

KINDS: Mapping[str, Callable[[Path, random.Random], Result]] = {kind.__name__: kind for kind in _KINDS}
"""Kinds of inputs by name."""
