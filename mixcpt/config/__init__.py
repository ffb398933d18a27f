"""The settings of every stage, checked before any work starts; importable without torch."""

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.advise import AdviseConfig, Span
from mixcpt.config.align import AlignConfig, DpoConfig, SelectionConfig, SftConfig
from mixcpt.config.base import Settings
from mixcpt.config.compare import Claim, CompareConfig, Contender, SearchConfig
from mixcpt.config.corpus import CorpusConfig
from mixcpt.config.curation import CurationConfig
from mixcpt.config.evaluate import (
    BitsPerByteTask,
    ClosedWorldTask,
    EvaluateConfig,
    MultipleChoiceTask,
    Split,
    SplitConfig,
    Task,
    WorldForm,
    has_one_answer,
    is_question,
)
from mixcpt.config.evaluate_model import EvaluateModelConfig
from mixcpt.config.loading import load_advise, load_any, load_compare, load_config, load_corpus, load_readapt
from mixcpt.config.merge import AverageConfig, InterpolateConfig, ResidualConfig, SweepConfig
from mixcpt.config.methods import (
    CptMethod,
    CptReplayMethod,
    DiscMethod,
    DocumentDcdMethod,
    KlMethod,
    LssdMethod,
    MarginMethod,
    MaskMethod,
    Method,
    NoneMethod,
    PitMethod,
    ReadingMethod,
    StreamsMethod,
    TalrMethod,
)
from mixcpt.config.mixture import MixtureConfig, PoolWeights
from mixcpt.config.model import CLOSED_WORLD_BASE, BaseModelConfig
from mixcpt.config.optimizer import OptimizerConfig, require_optimizer
from mixcpt.config.pretrain import (
    AdapterOffTeacherConfig,
    CachedTeacherConfig,
    FrozenTeacherConfig,
    FullScopeConfig,
    LoraScopeConfig,
    PretrainConfig,
    Scope,
    TeacherConfig,
)
from mixcpt.config.promote import PromoteConfig, RollbackConfig
from mixcpt.config.readapt import Cause, Gate, ReadaptConfig
from mixcpt.config.reconcile import ReconcileConfig
from mixcpt.config.renames import RENAMED_KEYS, read_stored
from mixcpt.config.retention import RetentionConfig
from mixcpt.config.runtime import RuntimeConfig, Sharding
from mixcpt.config.sources import ClosedWorldSource, FieldNames, FilesSource, HuggingFaceSource, Pool, Source
from mixcpt.config.stage_group import StageGroupConfig
from mixcpt.config.streams import Form, ObjectiveConfig, StreamConfig, ViewConfig

__all__ = [
    "CLOSED_WORLD_BASE",
    "RENAMED_KEYS",
    "AdaptConfig",
    "AdapterOffTeacherConfig",
    "AdviseConfig",
    "AlignConfig",
    "AverageConfig",
    "BaseModelConfig",
    "BitsPerByteTask",
    "CachedTeacherConfig",
    "Cause",
    "Claim",
    "ClosedWorldSource",
    "ClosedWorldTask",
    "CompareConfig",
    "Contender",
    "CorpusConfig",
    "CptMethod",
    "CptReplayMethod",
    "CurationConfig",
    "DiscMethod",
    "DocumentDcdMethod",
    "DpoConfig",
    "EvaluateConfig",
    "EvaluateModelConfig",
    "FieldNames",
    "FilesSource",
    "Form",
    "FrozenTeacherConfig",
    "FullScopeConfig",
    "Gate",
    "HuggingFaceSource",
    "InterpolateConfig",
    "KlMethod",
    "LoraScopeConfig",
    "LssdMethod",
    "MarginMethod",
    "MaskMethod",
    "Method",
    "MixtureConfig",
    "MultipleChoiceTask",
    "NoneMethod",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PitMethod",
    "Pool",
    "PoolWeights",
    "PretrainConfig",
    "PromoteConfig",
    "ReadaptConfig",
    "ReadingMethod",
    "ReconcileConfig",
    "ResidualConfig",
    "RetentionConfig",
    "RollbackConfig",
    "RuntimeConfig",
    "Scope",
    "SearchConfig",
    "SelectionConfig",
    "Settings",
    "SftConfig",
    "Sharding",
    "Source",
    "Span",
    "Split",
    "SplitConfig",
    "StageGroupConfig",
    "StreamConfig",
    "StreamsMethod",
    "SweepConfig",
    "TalrMethod",
    "Task",
    "TeacherConfig",
    "ViewConfig",
    "WorldForm",
    "has_one_answer",
    "is_question",
    "load_advise",
    "load_any",
    "load_compare",
    "load_config",
    "load_corpus",
    "load_readapt",
    "read_stored",
    "require_optimizer",
]
