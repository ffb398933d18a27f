"""The one door to MLflow: runs found again by a tag, measurements in batches, and no outage that stops a training."""

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
from mixcpt.records.stored import TRACKING_URI, tracking_uri
from mixcpt.store.spool import Measurement

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

RUN_KEY = "mixcpt.run_key"
STAGE_KEY = "mixcpt.stage_key"
FLOW_RUN = "mixcpt.flow_run_id"
ROOT_FLOW_RUN = "mixcpt.root_flow_run_id"
TEMPORARY_SERVER = "MIXCPT_TEMPORARY_SERVER"
"""Set where Prefect's server has no pages and ends with the flow."""
PROCESS = "mixcpt.process"
PARENT = "mlflow.parentRunId"

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the experiment in MLflow's page on its runs, which is on traces of applications otherwise."""

_PAUSE_SECONDS = 60.0
"""How long a server that did not answer is left alone."""
_MAX_PARAMS = 100
_MAX_METRICS = 950
_MAX_VALUE_CHARACTERS = 500
"""What MLflow takes in one request, with some tags beside the metrics, and in one value on every backend."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_log = logging.getLogger("mixcpt.store.spool")


@dataclass(frozen=True)
class Place:
    """Which tracking store, and which experiment in it."""

    uri: str
    experiment: str
    artifact_root: str = ""
    """Where a local database keeps the files of its runs; a server decides for itself."""

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> "Place":
        """Returns `MLFLOW_TRACKING_URI` if set, else a local database in the artifact store."""
        artifacts = (Path(runtime.store).expanduser().resolve() / "mlartifacts").as_uri()
        is_server = bool(os.environ.get(TRACKING_URI))
        return cls(tracking_uri(runtime), runtime.experiment, "" if is_server else artifacts)


class OpenRun(NamedTuple):
    """A run that is being written to."""

    run_id: str
    metrics: frozenset[str]
    """Names of those that an earlier attempt has logged."""


def forgiving(
    operation: Callable[Concatenate["Tracking", Parameters], Result],
) -> Callable[Concatenate["Tracking", Parameters], Result | None]:
    """Returns the operation with trouble of the tracking side turned into a warning and None.

    After trouble the server is left alone for a minute. Nothing is lost: spools and artifacts stay, and what is
    missing is logged by a later call or by the next run.
    """

    @functools.wraps(operation)
    def calm(tracking: "Tracking", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result | None:
        if time.monotonic() < tracking.away_until:
            return None
        from mlflow.exceptions import MlflowException

        try:
            return operation(tracking, *args, **kwargs)
        except (MlflowException, OSError) as error:
            what = operation.__name__.replace("_", " ")
            _log.warning("MLflow at %s is left out for a minute: %s failed: %s", tracking.place.uri, what, error)
            tracking.away_until = time.monotonic() + _PAUSE_SECONDS
            return None

    return calm


class Tracking:
    """Runs of one experiment; its methods raise what MLflow raises, see `forgiving`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.away_until = 0.0
        self.models: dict[str, LoggedModel] = {}
        """Those that were found or made, by the digest of their weights: every later stage asks for its own again."""

    @functools.cached_property
    def client(self) -> "MlflowClient":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # an outage must not hold up the watching
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow

        for talkative in ("alembic", "mlflow"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        # The registry looks for logged models where this points. The variable that it sets beside would send every
        # later run of this process to the same place.
        given = os.environ.get(TRACKING_URI)
        mlflow.set_tracking_uri(self.place.uri)
        if given is None:
            os.environ.pop(TRACKING_URI, None)
        return mlflow.MlflowClient(self.place.uri)

    @functools.cached_property
    def experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(self.place.experiment):
            return str(found.experiment_id)
        try:
            root = self.place.artifact_root
            location = f"{root}/{self.place.experiment}" if root else None
            return str(self.client.create_experiment(self.place.experiment, location, tags=_EXPERIMENT_TAGS))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(self.place.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def find(self, filter_string: str, max_results: int = 1) -> "list[Run]":
        return list(self.client.search_runs([self.experiment_id], filter_string, max_results=max_results))

    def finished_run(self, key_tag: str, key: str) -> str:
        """Returns the id of the run of this key if it has finished, else the empty string."""
        runs = self.find(f"tags.`{key_tag}` = '{key}' and attributes.status = 'FINISHED'")
        return str(runs[0].info.run_id) if runs else ""

    def open(
        self, key_tag: str, key: str, name: str, *, parent: str, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> OpenRun:
        """Returns the run of this key: the one that is there, reopened, or a new one with `params`."""
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
        """Ends a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def close_flow_run(self, flow_run_id: str, status: str) -> None:
        """Ends every run that a flow run has left open."""
        for tag in (FLOW_RUN, ROOT_FLOW_RUN):
            for run in self.find(f"tags.`{tag}` = '{flow_run_id}' and attributes.status = 'RUNNING'", 1000):
                self.client.set_terminated(run.info.run_id, status)

    def close_abandoned(self) -> None:
        """Marks as KILLED what a process of this machine left open when it died."""
        for run in self.find("attributes.status = 'RUNNING'", 1000):
            owner = run.data.tags.get(PROCESS, "")
            if owner and is_dead(owner):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._log(run_id, [], tags)

    def last_steps(self, run: OpenRun) -> dict[str, int]:
        """Returns the last logged step of each metric of a run."""
        histories = {key: self.client.get_metric_history(run.run_id, key) for key in run.metrics}
        return {key: max(metric.step for metric in history) for key, history in histories.items()}

    def log_measurements(
        self,
        run_id: str,
        measurements: Iterable[Measurement],
        last_steps: dict[str, int],
        figures: "Iterable[Metric]" = (),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Logs the steps after `last_steps`, which is brought up to date: a resumed training measures some again.

        In the same requests it logs `figures`, which have no steps, unless they are there already, and `tags`.
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
        """Logs figures without steps, unless they are there already."""
        from mlflow.entities import Metric

        there = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        self._log(run_id, [Metric(key, value, now, 0) for key, value in figures.items() if key not in there])

    def _log(self, run_id: str, metrics: "Sequence[Metric]", tags: Mapping[str, str] = MappingProxyType({})) -> None:
        from mlflow.entities import RunTag

        wanted = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(metrics) or len(wanted), _MAX_METRICS):
            self.client.log_batch(run_id, metrics[start : start + _MAX_METRICS], tags=[] if start else wanted)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(key[:250], _cut(value)) for key, value in flatten(params).items()]
        for start in range(0, len(flat), _MAX_PARAMS):
            self.client.log_batch(run_id, params=flat[start : start + _MAX_PARAMS])


@functools.lru_cache(maxsize=8)
def open_tracking(place: Place) -> Tracking:
    """Returns the door to this place, the same one at every call: connecting takes seconds."""
    return Tracking(place)


def prepare_in_background(place: Place) -> threading.Thread:
    """Returns a thread that creates the tables of a new local database, which takes seconds; at once done otherwise."""
    path = Path(place.uri.removeprefix("sqlite:///"))
    is_new = place.uri.startswith("sqlite:///") and not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True) if is_new else None
    thread = threading.Thread(target=_connect if is_new else lambda tracking: None, args=(open_tracking(place),))
    thread.start()
    return thread


@forgiving
def _connect(tracking: Tracking) -> str:
    return tracking.experiment_id


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as one level: `optimizer.learning_rate`, `tasks.0.name`."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple) and value:
        items = enumerate(value)
    else:
        return {prefix: value} if prefix else {}
    return {
        key: leaf
        for name, child in items
        for key, leaf in flatten(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def process_identity() -> str:
    """Returns machine, process id and start time of this process: enough to see later whether it is still alive."""
    return f"{_machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _machine() -> str:
    """Returns the host's name, and on Linux what tells hosts of one name apart: the boot, the space of process ids."""
    places = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))
    if not all(place.exists() for place in places):
        return socket.gethostname()
    boot, space = places
    return f"{socket.gethostname()}/{boot.read_text().strip()}/{space.stat().st_ino}"


def is_neighbour(owner: str) -> bool:
    """Returns whether a process counts its ids as we do, so that `is_dead` cannot mistake another one for it."""
    return owner.rsplit(" ", 2)[0] == _machine()


def is_dead(owner: str) -> bool:
    """Returns whether a process of this machine has ended; of one of another machine nothing is known."""
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
