#!/bin/sh
# Build the images utilctl/agent and utilctl/controller of this work tree with podman or docker.
# usage: build_images.sh [--base IMAGE] [--tag TAG] [--prefix NAME] [--target agent|controller]
# PYTHON makes the wheels; the build itself needs no network once BASE is there.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
base= tag=latest prefix=utilctl targets="agent controller"
while [ $# -gt 0 ]; do
    case $1 in
        --base) base=$2 ;;
        --tag) tag=$2 ;;
        --prefix) prefix=$2 ;;
        --target) targets=$2 ;;
        *) echo "build_images.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
engine=$(command -v podman || command -v docker) || { echo "build_images.sh: podman or docker is needed" >&2; exit 1; }
python=${PYTHON:-$root/.venv/bin/python}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$root/deploy/Dockerfile" "$context/"
"$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$context/wheels" "$root"
# Beside each other, podman's runc is the one that works on hosts with both versions of cgroups.
case $engine in */podman) set -- --runtime runc --network none --ulimit nofile=1024:4096 ;; *) set -- ;; esac
for target in $targets; do
    "$engine" build "$@" --target "$target" ${base:+--build-arg "BASE=$base"} -t "$prefix/$target:$tag" "$context" >&2
done
