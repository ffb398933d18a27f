"""Templates of Docker and Kubernetes pools, with values filled in by Prefect."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).parents[3]
POOLS = sorted((ROOT / "deployments" / "pools").glob("*.json"))
SECRETS = re.compile(r"PASSWORD|AUTH_STRING|TOKEN|API_KEY")


def template(name: str) -> dict[str, Any]:
    pool: dict[str, Any] = json.loads((ROOT / "deployments" / "pools" / f"{name}.json").read_text())
    return pool


def filled(name: str, **values: Any) -> dict[str, Any]:
    """Return the job that a pool builds from its defaults and the values of a deployment."""
    pool = template(name)
    defaults = {key: field["default"] for key, field in pool["variables"]["properties"].items() if "default" in field}
    job: dict[str, Any] = apply_values(pool["job_configuration"], defaults | values)
    return job


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_variables_are_used_explained_and_optional(path: Path) -> None:
    pool = json.loads(path.read_text())
    fields = pool["variables"]["properties"]
    assert {placeholder.name for placeholder in find_placeholders(pool["job_configuration"])} | {"env"} == set(fields)
    assert all(field["title"] and field["description"].endswith(".") for field in fields.values())
    assert pool["variables"]["required"] == []
    assert not SECRETS.search(json.dumps(pool["job_configuration"])), "a pool's page shows its configuration"


def test_docker_run_has_the_volumes_of_the_compose_file_and_no_rights() -> None:
    job = filled("docker")
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    for volume in job["volumes"][:3]:
        assert f"- {volume.removeprefix('mixcpt_')}" in compose
    extra = job["container_create_kwargs"]
    assert (extra["cap_drop"], extra["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert job["privileged"] is False
    assert extra["device_requests"][0]["capabilities"] == [["gpu"]]
    assert filled("docker", device_requests=[])["container_create_kwargs"]["device_requests"] == []


def test_kubernetes_run_has_gpus_a_shared_store_and_no_rights() -> None:
    pod = filled("kubernetes", gpus=4)["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["securityContext"]["runAsNonRoot"] is True
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounted["/app/.mixcpt"] == mounted["/results"] == "shared"
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    assert container["envFrom"] == [{"secretRef": {"name": "mixcpt"}}]


@pytest.mark.parametrize(
    ("name", "module", "settings"),
    [
        ("docker", "prefect_docker.worker", "DockerWorkerJobConfiguration"),
        ("kubernetes", "prefect_kubernetes.worker", "KubernetesWorkerJobConfiguration"),
    ],
)
def test_worker_accepts_the_template(name: str, module: str, settings: str) -> None:
    worker = pytest.importorskip(module, reason="the worker library of this pool is not installed")
    values = {"env": {"MIXCPT_GPUS": "2"}, "image": "registry/mixcpt-gpu:1"}
    job = asyncio.run(getattr(worker, settings).from_template_and_values(template(name), values))
    assert job.env["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert job.env["MIXCPT_GPUS"] == "2"
    assert "registry/mixcpt-gpu:1" in job.model_dump_json()
