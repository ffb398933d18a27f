"""The settings of every stage, checked before any work starts; importable without torch. Every name here is public."""

from mixcpt.config.adapt import CLOSED_WORLD_BASE, AdaptConfig, BaseModelConfig
from mixcpt.config.align import AlignConfig, DpoConfig, SelectionConfig, SftConfig
from mixcpt.config.base import Settings
from mixcpt.config.compare import AdviseConfig, Claim, CompareConfig, Contender, SearchConfig, Span
from mixcpt.config.curation import (
    ClosedWorldSource,
    CurationConfig,
    FieldNames,
    FilesSource,
    HuggingFaceSource,
    Pool,
    Source,
)
from mixcpt.config.evaluate import (
    SHIPPED_TEXT,
    BenchmarkTask,
    BitsPerByteTask,
    ClosedWorldTask,
    EvaluateConfig,
    MultipleChoiceTask,
    Split,
    SplitConfig,
    Task,
    WorldForm,
    has_one_answer,
    headline_problems,
    is_question,
)
from mixcpt.config.flows import (
    EvaluateModelConfig,
    PromoteConfig,
    QuickRun,
    ReconcileConfig,
    RollbackConfig,
    StageGroupConfig,
)
from mixcpt.config.loading import load_any, load_config, load_settings
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
from mixcpt.config.optimizer import OptimizerConfig, require_optimizer
from mixcpt.config.pretrain import (
    AdapterOffTeacherConfig,
    CachedTeacherConfig,
    FrozenTeacherConfig,
    FullScopeConfig,
    LoraScopeConfig,
    PretrainConfig,
    RetentionConfig,
    Scope,
    TeacherConfig,
)
from mixcpt.config.readapt import Cause, CorpusConfig, Gate, ReadaptConfig
from mixcpt.config.renames import RENAMED_KEYS, read_stored
from mixcpt.config.rewrite import RewriteConfig
from mixcpt.config.runtime import RuntimeConfig, Sharding
from mixcpt.config.streams import Form, ObjectiveConfig, StreamConfig, ViewConfig
from mixcpt.config.tracking import TrackingConfig
