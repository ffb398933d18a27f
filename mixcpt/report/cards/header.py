"""YAML header of a model card: metadata for the hub and digests that identify the model."""

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
# license: choose one (an SPDX id in lower case, such as apache-2.0). The licences of the base model and of the
#   documents decide which licences are possible; none was chosen here.
"""
_HUB_FOLDER = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")


def header(details: Mapping[str, Any], *, tags: Sequence[str], bases: Sequence[str], datasets: Sequence[str]) -> str:
    """Return the front matter of a card including its `---` lines.

    Args:
        details: Names, counts and digests for the key `mixcpt`.
        tags: Search tags in addition to `mixcpt`.
        bases: Hub ids of the models it was made of; the hub rejects other names.
        datasets: Hub ids of the data sets of its training.
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
    """Return the hub id of a model from the hub's cache; empty for any other folder."""
    matches = (_HUB_FOLDER.fullmatch(part) for part in Path(model.path).parts)
    return next((f"{match['owner']}/{match['name']}" for match in matches if match), "")


def hub_datasets(curation: CurationConfig) -> list[str]:
    """Return the hub ids of the data sets among the sources, without local paths."""
    paths = [source.path for source in curation.sources if isinstance(source, HuggingFaceSource)]
    return [path for path in paths if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and not Path(path).exists()]


def dataset_details(corpus: ArtifactRef) -> list[dict[str, Any]]:
    """Return the sources of a corpus with the number of kept records and the digests of the files."""
    return [
        {
            "name": name,
            "pool": source.pool,
            "records": source.kept,
            "files": [{"name": file.name, "sha256": file.sha256} for file in source.files],
        }
        for name, source in CorpusReport.of(corpus).sources.items()
    ]
