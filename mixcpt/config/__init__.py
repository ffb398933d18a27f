"""The settings of every stage, checked before any work starts; importable without torch."""

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.align import AlignConfig, DpoConfig, SelectionConfig, SftConfig
from mixcpt.config.curation import CurationConfig
from mixcpt.config.evaluate import BitsPerByteTask, ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, Task
from mixcpt.config.loading import load_config
from mixcpt.config.merge import AverageConfig, InterpolateConfig, ResidualConfig, SweepConfig
from mixcpt.config.mixture import MixtureConfig, PoolWeights
from mixcpt.config.model import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.config.pretrain import (
    CptMethod,
    CptReplayMethod,
    KlMethod,
    LssdMethod,
    Method,
    OptimizerConfig,
    PretrainConfig,
)
from mixcpt.config.runtime import RuntimeConfig
from mixcpt.config.sources import ClosedWorldSource, FieldNames, FilesSource, HuggingFaceSource, Pool, Source

__all__ = [
    "CLOSED_WORLD_BASE",
    "AdaptConfig",
    "AlignConfig",
    "AverageConfig",
    "BaseModelConfig",
    "BitsPerByteTask",
    "ClosedWorldSource",
    "ClosedWorldTask",
    "CptMethod",
    "CptReplayMethod",
    "CurationConfig",
    "DpoConfig",
    "EvaluateConfig",
    "FieldNames",
    "FilesSource",
    "HuggingFaceSource",
    "InterpolateConfig",
    "KlMethod",
    "LssdMethod",
    "Method",
    "MixtureConfig",
    "MultipleChoiceTask",
    "OptimizerConfig",
    "Pool",
    "PoolWeights",
    "PretrainConfig",
    "ResidualConfig",
    "RuntimeConfig",
    "SelectionConfig",
    "SftConfig",
    "Source",
    "SweepConfig",
    "Task",
    "load_config",
]
