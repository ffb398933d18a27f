"""The YAML at the top of a model card: what the hub reads, and what other programs need to know a model again."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mixcpt.config import CurationConfig, HuggingFaceSource
from mixcpt.curation.corpus_report import CorpusReport
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

_LICENSE = """\
# license: choose one (an SPDX id in small letters, such as apache-2.0). What the base model's licence and those of the
#   documents allow decides; nothing was chosen here.
"""
_HUB_FOLDER = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")


def header(details: Mapping[str, Any], *, tags: Sequence[str], bases: Sequence[str], datasets: Sequence[str]) -> str:
    """Returns the front matter of a card between its `---` lines.

    Args:
        details: What goes below the key `mixcpt`: names, counts and digests.
        tags: What the model can be found under, beside `mixcpt`.
        bases: Hub ids of the models it was made of; the hub refuses any other name there.
        datasets: Hub ids of data sets that it was trained on.
    """
    relation = {"base_model": list(bases), "base_model_relation": "merge" if "merge" in tags else "finetune"}
    fields = {
        **(relation if bases else {}),
        **({"datasets": list(datasets)} if datasets else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mixcpt", *tags],
        "mixcpt": dict(details),
    }
    return f"---\n{_LICENSE}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120)}---\n"


def hub_id(model: ModelRef) -> str:
    """Returns the id under which the hub gave a model; empty for a folder of somebody's own."""
    folders = (_HUB_FOLDER.fullmatch(part) for part in Path(model.path).parts)
    return next((f"{found['owner']}/{found['name']}" for found in folders if found), "")


def hub_datasets(curation: CurationConfig) -> list[str]:
    """Returns the hub ids of the data sets among the sources; paths on a disk are nobody else's business."""
    named = [source.path for source in curation.sources if isinstance(source, HuggingFaceSource)]
    return [name for name in named if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists()]


def dataset_details(corpus: ArtifactRef) -> list[dict[str, Any]]:
    """Returns the sources of a corpus: what was kept of each, and the digest of each file that was read."""
    return [
        {
            "name": name,
            "pool": source.pool,
            "records": source.kept,
            "files": [{"name": file.name, "sha256": file.sha256} for file in source.files],
        }
        for name, source in CorpusReport.of(corpus).sources.items()
    ]
