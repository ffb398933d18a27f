"""A few adaptations, one after the other, in one table: what the demo runs.

`python -m flows.demo A.json B.json [--result]` runs it in this process.
"""

import os
import sys
import time
from pathlib import Path

from prefect import flow

from flows.adapt import adapt
from flows.local import run_locally
from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult
from tasks.hooks import close_as_failed, close_as_killed, remember_process
from tasks.reporting import publish_comparison


@flow(
    name="side-by-side",
    flow_run_name="side by side",
    on_running=[remember_process],
    on_failure=[close_as_failed],
    on_crashed=[close_as_failed],
    on_cancellation=[close_as_killed],
)
def side_by_side(configs: list[AdaptConfig]) -> list[RunResult]:
    """Run several adaptations, one after the other, and show their results in one table.

    What they share (corpus, evaluation of the base) is computed once.
    """
    results = [adapt(config) for config in configs]
    publish_comparison(results)
    return results


def main(arguments: list[str]) -> int:
    """Returns the exit code of a comparison; `--result` adds a last line that a program can read."""
    files = [argument for argument in arguments if not argument.startswith("--")]
    configs = [AdaptConfig.model_validate_json(Path(file).read_text()) for file in files]
    started = float(os.environ.get("MIXCPT_STARTED_AT", time.time()))
    return run_locally(lambda: side_by_side(configs), configs, started if "--result" in arguments else None)


if __name__ == "__main__":
    from flows import demo as module  # so that Prefect and pickles know the flow by its importable name

    raise SystemExit(module.main(sys.argv[1:]))
