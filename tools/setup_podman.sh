#!/bin/sh
# Have podman with runc: what there is, or Debian's packages. They are installed, as container engines cannot be unpacked
# aside. Never fails: without them the tests of the images are skipped, and this says so.
# usage: setup_podman.sh
set -eu
if command -v podman >/dev/null && command -v runc >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends podman runc >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends podman runc; } >/dev/null 2>&1 || true
fi
if ! command -v podman >/dev/null || ! command -v runc >/dev/null; then
    echo "SKIPPED: all tests marked 'podman', because podman and runc are not here and cannot be installed." >&2
    echo "         To run them: apt-get install podman runc" >&2
fi
