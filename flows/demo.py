"""The demo: several adaptations, one after another, in one table."""

from prefect import flow

from flows.adapt import adapt
from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult
from tasks.checking import count_as_checked
from tasks.hooks import HOOKS
from tasks.reporting import publish_runs_table


@flow(name="demo", flow_run_name="demo", **HOOKS)
def demo(configs: list[AdaptConfig]) -> list[RunResult]:
    """Run several adaptations and show their results in one table; shared stages are computed once."""
    count_as_checked(*configs)  # these settings ship with mixcpt
    results = [adapt(config) for config in configs]
    publish_runs_table(results)
    return results
