"""Container files: structure, secrets, pinned versions, and commands that exist."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.topology import COMPOSE, DOCKER, ROOT, interpolate, variables_of_example

TEXT = COMPOSE.read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
JOBS = {name for name, service in SERVICES.items() if service["restart"] != "unless-stopped"}
SERVERS = sorted(set(SERVICES) - JOBS)
SECRETS = {name: f"made-up-{name}" for name, is_secret in variables_of_example().items() if is_secret}
DOCS = (ROOT / "docs" / "containers.md").read_text()
EXAMPLE_VARIABLES = set(variables_of_example())


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return the base image and the instructions of all stages, by name."""
    by_name: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.split()
            by_name[name] = (base, [])
        elif by_name:
            by_name[name][1].append((word, rest))
    return by_name


def inherited(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage, after the instructions of the stages that it builds on."""
    base, own = stages()[name]
    return [*(inherited(base) if base in stages() else []), *own]


PROGRAMS = ("prefect", "mlflow", "mixcpt")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of Prefect, MLflow and mixcpt in the services, the Dockerfile and docs/containers.md."""
    texts = [(name, " ".join(service["command"])) for name, service in SERVICES.items() if "command" in service]
    texts += [("page", line) for line in re.findall(r"docker compose run --rm --no-deps (?:prefect|mlflow) (.*)", DOCS)]
    texts += [
        ("Dockerfile", " ".join(re.findall(r'"([^"]+)"', rest))) for word, rest in instructions() if word == "CMD"
    ]
    for origin, text in texts:
        if text.split()[0] in PROGRAMS:
            yield origin, text.split()


def test_servers_have_health_checks_and_dependants_wait_for_jobs() -> None:
    for name in SERVERS:
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD", name
    waited = set(chain.from_iterable(service.get("depends_on", {}) for service in SERVICES.values()))
    assert JOBS - waited == {"backup"}  # started by hand
    for name, service in SERVICES.items():
        for other, dependency in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in JOBS else "service_healthy"
            assert dependency["condition"] == expected, f"{name} -> {other}"


def test_no_service_can_gain_rights() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid"} & set(service), name


def test_ports_are_open_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"prefect", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for port in chain.from_iterable(published.values()))


def test_databases_and_files_are_out_of_reach_of_workers() -> None:
    assert FILE["networks"]["storage"]["internal"] is True
    inside = {name for name, service in SERVICES.items() if "storage" in service.get("networks", [])}
    assert inside == {"postgres", "minio", "bucket", "backup", "prefect", "mlflow"}


def test_secrets_are_required_variables() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH_STRING|MC_HOST", key):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}.{key} is not a required variable"
    complete = interpolate(TEXT, SECRETS)
    assert "${" not in complete
    for secret in SECRETS:
        with pytest.raises(ValueError, match=secret):
            interpolate(TEXT, {name: value for name, value in SECRETS.items() if name != secret})


def test_example_explains_exactly_the_variables_that_are_used() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used == EXAMPLE_VARIABLES
    example = (DOCKER / ".env.example").read_text()
    for name in EXAMPLE_VARIABLES:
        before = example[: re.search(rf"^#?{name}=", example, flags=re.MULTILINE).start()]  # type: ignore[union-attr]
        above = [line for line in before.splitlines() if not re.match(r"#?[A-Z_]+=", line)][-1]
        assert above.startswith("# "), f"{name} is not explained"


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_documented_command_generates_every_secret_and_changes_nothing_else(tmp_path: Path) -> None:
    command = re.search(r"^awk .*$", DOCS, flags=re.MULTILINE)
    assert command
    assert command[0] in (DOCKER / ".env.example").read_text()
    shutil.copy(DOCKER / ".env.example", tmp_path)
    subprocess.run(["sh", "-c", command[0]], cwd=tmp_path, check=True)
    secrets = dict(re.findall(r"^([A-Z_]+)=(.*)$", (tmp_path / ".env").read_text(), flags=re.MULTILINE))
    assert set(secrets) == set(SECRETS)
    assert len(set(secrets.values())) == len(SECRETS)
    assert all(re.fullmatch(r"[0-9a-f]{48}", secret) for secret in secrets.values())


def test_permanent_data_is_in_declared_volumes() -> None:
    mounted = {
        name: dict(v.split(":")[1::-1] for v in s.get("volumes", []) if "$" not in v) for name, s in SERVICES.items()
    }
    assert mounted["postgres"]["/var/lib/postgresql/data"] == "database"
    assert mounted["minio"]["/data"] == "objects"
    assert mounted["prefect"][SERVICES["prefect"]["environment"]["PREFECT_HOME"]] == "leases"
    for worker in ("worker", "upkeep-worker", "gpu-worker"):
        assert mounted[worker]["/app/.mixcpt"] == "store"
        results = SERVICES[worker]["environment"]["PREFECT_RESULTS_LOCAL_STORAGE_PATH"]
        assert mounted[worker][results] == "results"
    sources = chain.from_iterable(places.values() for places in mounted.values())
    assert {source for source in sources if not source.startswith(".")} == set(FILE["volumes"])
    assert all((DOCKER / source).exists() for source in mounted["postgres"].values() if source.startswith("."))


def test_volume_folders_of_our_images_belong_to_their_user() -> None:
    owned = " ".join(rest for word, rest in instructions() if "install --directory --owner mixcpt" in rest)
    for folder in ("/leases", "/results", ".mixcpt", "/home/mixcpt/.cache"):
        assert f" {folder}" in owned


def test_images_are_pinned() -> None:
    defaults = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    bases = {interpolate(base, defaults) for base, _ in stages().values()} - set(stages())
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert bases
    for image in bases | images:
        assert re.search(r":(\d+\.\d+|RELEASE\.\d{4}-)", image), image
    for service in SERVICES.values():
        assert service.get("build", {}).get("target", "cpu") in stages()


@pytest.mark.parametrize("image", ["server", "cpu", "gpu"])
def test_image_runs_as_an_ordinary_user(image: str) -> None:
    users = [rest for word, rest in inherited(image) if word == "USER"]
    assert users[-1] == "mixcpt"
    assert inherited(image)[-1][0] != "RUN"


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_worker_image_has_only_the_app_folder_on_its_path(image: str) -> None:
    environment = " ".join(rest for word, rest in inherited(image) if word == "ENV")
    assert re.findall(r"PYTHONPATH=(\S+)", environment) == ["/app"]
    copied = {rest for word, rest in inherited(image) if word == "COPY" and not rest.startswith("--from")}
    assert copied == {
        "flows flows",
        "tasks tasks",
        "deployments deployments",
        "docker/healthcheck.py /opt/healthcheck.py",
    }


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    for word, rest in instructions():
        if word != "COPY":
            continue
        *sources, _ = rest.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in stages()
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert let_through & {source, source.split("/")[0]}, f"{source} is in .dockerignore"


@pytest.mark.parametrize(
    "variable", sorted(set(chain.from_iterable(service.get("environment", {}) for service in SERVICES.values())))
)
def test_variable_is_read_by_its_program(variable: str) -> None:
    import mlflow.environment_variables
    import prefect.settings

    if variable.startswith("PREFECT_") and variable != "PREFECT_DATABASE_PASSWORD":
        assert getattr(prefect.settings, variable).name in (
            variable,
            variable.replace("SERVER_DATABASE", "API_DATABASE"),
        )
    elif variable.startswith("MLFLOW_") and variable != "MLFLOW_DATABASE_PASSWORD":
        assert hasattr(mlflow.environment_variables, variable)
    elif variable.endswith("_DATABASE_PASSWORD"):
        assert f"${variable}" in (DOCKER / "databases.sh").read_text()
    elif variable.startswith("WORKER_"):
        assert f'"{variable}"' in (DOCKER / "mlflow_account.py").read_text()
    else:
        assert re.match(r"POSTGRES_|MINIO_ROOT_|MC_|AWS_|PGPASSWORD|PWD", variable)


def test_commands_and_their_options_exist() -> None:
    counts = dict.fromkeys(PROGRAMS, 0)
    options = dict(zip(PROGRAMS, (prefect_options, mlflow_options, mixcpt_options), strict=True))
    for origin, (program, *words) in commands():
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options[program](words)
        assert unknown == set(), f"{origin}: {program} {' '.join(words)}"
        counts[program] += 1
    assert counts == {"prefect": 7, "mlflow": 2, "mixcpt": 1}


def prefect_options(words: list[str]) -> set[str]:
    """Return the options of the command that these words call; fail if there is no such command."""
    from prefect.cli._app import _app

    command = _app
    for word in words:
        if command is not _app and command.default_command:
            break
        command = command if word.startswith("--") else command[word]
    return set(chain.from_iterable(argument.names for argument in command.assemble_argument_collection()))


def mlflow_options(words: list[str]) -> set[str]:
    """Return the options of the command that these words call; fail if there is no such command."""
    import click
    from mlflow.cli import cli

    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
    return set(chain.from_iterable((*parameter.opts, *parameter.secondary_opts) for parameter in command.params))


def mixcpt_options(words: list[str]) -> set[str]:
    """Return the options of a command of mixcpt."""
    import typer

    from mixcpt.cli import app

    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    return set(chain.from_iterable(parameter.opts for parameter in command.params))


def test_documentation_names_services_and_profiles_that_exist() -> None:
    lines = re.findall(r"^\s*docker compose (.*)$", DOCS, flags=re.MULTILINE)
    assert len(lines) > 15
    flags = r"(?:-T|--\S+)(?:\s+(?:gpu|worker=0))?"
    for line in lines:
        if named := re.match(rf"(?:{flags}\s+)*(?:exec|run|stop)\s+(?:{flags}\s+)*(\S+)", line):
            assert named[1] in SERVICES, line
    profiles = set(chain.from_iterable(service.get("profiles", []) for service in SERVICES.values()))
    assert set(re.findall(r"--profile (\w+)", DOCS)) <= profiles
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", DOCS)) <= EXAMPLE_VARIABLES


def test_gpu_worker_reserves_devices_and_starts_only_with_its_profile() -> None:
    (device,) = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert SERVICES["gpu-worker"]["profiles"] == ["gpu"]


def test_server_group_is_pinned() -> None:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["server"]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {re.sub(r"\[.*\]", "", name).lower() for name in group} <= pins
