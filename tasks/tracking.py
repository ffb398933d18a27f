"""The only connection to MLflow: finds runs by a tag, logs in batches, and tolerates outages during training."""

import functools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import psutil

from mixcpt.config import RuntimeConfig
from mixcpt.records.run import TRACKING_URI, tracking_uri
from mixcpt.store.spool import Measurement

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

RUN_KEY = "mixcpt.run_key"
STAGE_KEY = "mixcpt.stage_key"
FLOW_RUN = "mixcpt.flow_run_id"
ROOT_FLOW_RUN = "mixcpt.root_flow_run_id"
TEMPORARY_SERVER = "MIXCPT_TEMPORARY_SERVER"
"""Environment variable that is set if the Prefect server has no pages and ends with the flow."""
PROCESS = "mixcpt.process"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""Tag with the description of a run, in Markdown."""
PREFECT = "prefect"
"""Tag with the address of the flow run in Prefect."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes MLflow show the runs of the experiment first, instead of traces of applications."""

_PAUSE_SECONDS = 60.0
"""Time without requests after a server did not respond."""
_MAX_PARAMS = 100
_MAX_METRICS = 950
_MAX_VALUE_CHARACTERS = 500
"""Maximum length of a parameter on every backend; the other limits are per request, with room for some tags."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_log = logging.getLogger("mixcpt.store.spool")


@dataclass(frozen=True)
class Place:
    """A tracking store and an experiment in it."""

    uri: str
    experiment: str
    artifact_root: str = ""
    """Address of the files of runs in a local database; empty for a server, which has its own."""

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> "Place":
        """Return the place in `MLFLOW_TRACKING_URI` if it is set, else in a local database of the artifact store."""
        artifacts = (Path(runtime.store).expanduser().resolve() / "mlartifacts").as_uri()
        is_server = bool(os.environ.get(TRACKING_URI))
        return cls(tracking_uri(runtime), runtime.experiment, "" if is_server else artifacts)


class OpenRun(NamedTuple):
    """A run with status RUNNING."""

    run_id: str
    metrics: frozenset[str]
    """Names of the metrics that an earlier attempt logged."""


def forgiving(
    operation: Callable[Concatenate["Tracking", Parameters], Result],
) -> Callable[Concatenate["Tracking", Parameters], Result | None]:
    """Return the operation with a warning and the result None in place of errors of MLflow.

    After an error, no request is made for a minute. Nothing is lost: spools and artifacts stay, and a later call or
    the next run logs the missing data.
    """

    @functools.wraps(operation)
    def tolerant(tracking: "Tracking", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result | None:
        if time.monotonic() < tracking.away_until:
            return None
        from mlflow.exceptions import MlflowException

        try:
            return operation(tracking, *args, **kwargs)
        except (MlflowException, OSError) as error:
            name = operation.__name__.strip("_").replace("_", " ")
            _log.warning("MLflow at %s is not used for a minute: %s failed: %s", tracking.place.uri, name, error)
            tracking.away_until = time.monotonic() + _PAUSE_SECONDS
            return None

    return tolerant


class Tracking:
    """Runs of one experiment; its methods raise the errors of MLflow, see `forgiving`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.away_until = 0.0
        self.models: dict[str, LoggedModel] = {}
        """Logged models by the digest of their weights, to save the requests of later stages."""

    @functools.cached_property
    def client(self) -> "MlflowClient":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # an outage must not block the flow process
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # The registry finds logged models through this address. The call also sets an environment variable, which
        # would send later runs of this process to the same place.
        is_set = TRACKING_URI in os.environ
        mlflow.set_tracking_uri(self.place.uri)
        if not is_set:
            os.environ.pop(TRACKING_URI, None)
        return mlflow.MlflowClient(self.place.uri)

    @functools.cached_property
    def experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        name, root = self.place.experiment, self.place.artifact_root
        if experiment := self.client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        try:
            location = f"{root}/{name}" if root else None
            return str(self.client.create_experiment(name, location, tags=_EXPERIMENT_TAGS))
        except MlflowException:
            if experiment := self.client.get_experiment_by_name(name):  # another process was faster
                return str(experiment.experiment_id)
            raise

    def find(self, filter_string: str, max_results: int = 1) -> "list[Run]":
        return list(self.client.search_runs([self.experiment_id], filter_string, max_results=max_results))

    def finished_run(self, key_tag: str, key: str) -> str:
        """Return the id of the finished run of this key; empty if there is none."""
        runs = self.find(f"tags.`{key_tag}` = '{key}' and attributes.status = 'FINISHED'")
        return str(runs[0].info.run_id) if runs else ""

    def open(
        self, key_tag: str, key: str, name: str, *, parent: str, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> OpenRun:
        """Reopen the run of this key, or create it with `params`, and return it."""
        attempt = {**tags, PROCESS: process_identity()}
        if runs := self.find(f"tags.`{key_tag}` = '{key}'"):
            run_id = str(runs[0].info.run_id)
            self.client.update_run(run_id, "RUNNING")
            self.tag(run_id, attempt)
            return OpenRun(run_id, frozenset(runs[0].data.metrics))
        parent_tag = {PARENT: parent} if parent else {}
        run = self.client.create_run(self.experiment_id, tags={key_tag: key, **parent_tag, **attempt}, run_name=name)
        self._log_params(run.info.run_id, params)
        return OpenRun(str(run.info.run_id), frozenset())

    def close(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def close_abandoned(self) -> None:
        """End the open runs of dead processes of this machine as KILLED."""
        for run in self.find("attributes.status = 'RUNNING'", 1000):
            owner = run.data.tags.get(PROCESS, "")
            if owner and is_dead(owner):
                self.close(run.info.run_id, "KILLED")

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._log(run_id, [], tags)

    def last_steps(self, run: OpenRun) -> dict[str, int]:
        """Return the last logged step by metric."""
        histories = {key: self.client.get_metric_history(run.run_id, key) for key in run.metrics}
        return {key: max(metric.step for metric in history) for key, history in histories.items()}

    def log_measurements(
        self,
        run_id: str,
        measurements: Iterable[Measurement],
        last_steps: dict[str, int],
        *,
        figures: "Iterable[Metric]" = (),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Log the steps after `last_steps` and update it; a resumed training measures earlier steps again.

        The same requests contain `tags`, and those `figures`, which have no steps, that are not logged yet.
        """
        from mlflow.entities import Metric

        metrics: list[Metric] = [figure for figure in figures if figure.key not in last_steps]
        reached = last_steps | {figure.key: figure.step for figure in metrics}
        for measurement in measurements:
            for key, value in measurement.metrics.items():
                if measurement.step > reached.get(key, -1):
                    reached[key] = measurement.step
                    metrics.append(Metric(key, value, int(measurement.time_seconds * 1000), measurement.step))
        self._log(run_id, metrics, tags)
        last_steps.update(reached)

    def log_figures(self, run_id: str, figures: Mapping[str, float]) -> None:
        """Log figures, which have no steps, unless they are logged already."""
        from mlflow.entities import Metric

        logged = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        self._log(run_id, [Metric(key, value, now, 0) for key, value in figures.items() if key not in logged])

    def log_table_once(self, run_id: str, values: Mapping[str, float], file: str) -> None:
        """Log named numbers as a table, unless the run has it; MLflow would append the rows to an existing table."""
        if file not in {artifact.path for artifact in self.client.list_artifacts(run_id)}:
            self.client.log_table(run_id, {"metric": list(values), "value": list(values.values())}, file)

    def _log(self, run_id: str, metrics: "Sequence[Metric]", tags: Mapping[str, str] = MappingProxyType({})) -> None:
        from mlflow.entities import RunTag

        run_tags = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(metrics) or len(run_tags), _MAX_METRICS):
            self.client.log_batch(run_id, metrics[start : start + _MAX_METRICS], tags=[] if start else run_tags)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(key[:250], _cut(value)) for key, value in flatten(params).items()]
        for start in range(0, len(flat), _MAX_PARAMS):
            self.client.log_batch(run_id, params=flat[start : start + _MAX_PARAMS])


@functools.lru_cache(maxsize=8)
def open_tracking(place: Place) -> Tracking:
    """Return the connection to a place; one per place, because connecting takes seconds."""
    return Tracking(place)


def prepare_in_background(place: Place) -> threading.Thread:
    """Start and return a thread that creates the tables of a new local database, which takes seconds."""
    path = Path(place.uri.removeprefix("sqlite:///"))
    is_new = place.uri.startswith("sqlite:///") and not path.exists()
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=_connect if is_new else lambda tracking: None, args=(open_tracking(place),))
    thread.start()
    return thread


@forgiving
def _connect(tracking: Tracking) -> str:
    return tracking.experiment_id


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by dotted path: `optimizer.learning_rate`, `tasks.0.name`."""
    children = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    if not isinstance(children, Mapping) or not children:
        return {prefix: value} if prefix else {}
    leaves: dict[str, Any] = {}
    for name, child in children.items():
        leaves |= flatten(child, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def process_identity() -> str:
    """Return machine, id and start time of this process, by which `is_dead` finds out whether it has ended."""
    return f"{_machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _machine() -> str:
    """Return the name of the host; on Linux also its boot and process namespace, because names may be equal."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not (boot.exists() and namespace.exists()):
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot.read_text().strip()}/{namespace.stat().st_ino}"


def is_neighbour(owner: str) -> bool:
    """Return whether a process has the boot and process namespace of this one, so that `is_dead` is certain."""
    return owner.rsplit(" ", 2)[0] == _machine()


def is_dead(owner: str) -> bool:
    """Return whether a process of this machine has ended; False for a process of another machine."""
    machine, pid, created = owner.rsplit(" ", 2)
    if machine.partition("/")[0] != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except psutil.NoSuchProcess:
        return True


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"
