#!/bin/sh
# Build an image without a registry, and check its content. A Debian root made by debootstrap replaces the Python image.
# Needs root rights, buildah, debootstrap and 5 GB of disk.
#   docker/check_build.sh server|cpu|gpu [OPTION OF `buildah build`]...
set -eu
target=$1
shift
cd "$(dirname "$0")/.."
base=localhost/python-of-debian:bookworm

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    folder=$(mktemp --directory)
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-dev,python3-venv bookworm "$folder/root"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/root" /
    buildah commit --quiet --rm "$container" "$base"
    rm --recursive --force "$folder"
fi

buildah build --isolation chroot --file docker/Dockerfile --target "$target" --build-arg PYTHON="$base" \
    --tag "mixcpt-$target" "$@" .

container=$(buildah from "mixcpt-$target")
trap 'buildah rm "$container" >/dev/null' EXIT
inside() { buildah run --isolation chroot "$container" -- "$@"; }

test "$(inside id --user)" = 1000
inside pip check
if [ "$target" = server ]; then
    inside prefect version
    inside mlflow --version
    inside python3 -c 'import asyncpg, boto3, flask_wtf, psycopg2'
    inside python3 -c 'import importlib.util; assert not importlib.util.find_spec("torch")'
    inside touch /leases/by-its-user
else
    inside mixcpt --version
    inside python3 -c 'import sys, flows.adapt; assert "torch" not in sys.modules, "flows need torch"'
    inside python3 -c 'import mixcpt; assert mixcpt.__file__.startswith("/opt/venv/"), mixcpt.__file__'
    inside python3 -c 'import torch; print("torch", torch.__version__)'
    inside touch /app/.mixcpt/by-its-user /results/by-its-user
    if inside touch /app/flows/by-its-user 2>/dev/null; then echo "/app is writable" >&2; exit 1; fi
fi
echo "mixcpt-$target: built and checked"
