"""The key of a rewritten corpus; imports neither torch nor transformers."""

from collections.abc import Sequence

from mixcpt.config.rewrite import RewriteConfig
from mixcpt.rewrite.forms import Form, load_judge
from mixcpt.rewrite.generators import generator_identity
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.models import ModelRef

_VERSION = 1


def rewrite_key(
    config: RewriteConfig, forms: Sequence[Form], corpus: ArtifactRef, base: ModelRef, *, seed: int
) -> StageKey:
    """Return the key of a rewritten corpus: the texts depend on the generator, not on its address."""
    settings = config.model_dump(mode="json", exclude={"generator", "forms"})
    return StageKey(
        kind="rewritten",
        version=_VERSION,
        settings={
            **settings,
            "forms": [[form.name, form.digest, form.per_passage, form.length] for form in forms],
            "generator": generator_identity(config, base),
            "judge": load_judge(config.faithfulness.judge_form).digest if config.faithfulness.judge != "none" else "",
            "seed": seed,
        },
        inputs={"corpus": corpus.digest},
    )
