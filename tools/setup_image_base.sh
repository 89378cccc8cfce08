#!/bin/sh
# Have the image NAME to build ours on where no registry is in reach: Debian 12 with Python, from this host's own Debian
# sources. Never fails; says so if there is none.
# usage: setup_image_base.sh NAME
set -eu
name=$1
command -v podman >/dev/null || exit 0
podman image exists "$name" && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    command -v debootstrap >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null 2>&1 || true
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1)
    work=$(mktemp -d)
    if debootstrap --variant=minbase --include=python3-minimal,python3,python3-venv,ca-certificates \
        bookworm "$work/root" "${mirror:-http://deb.debian.org/debian}" >/dev/null 2>&1; then
        rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/*
        tar -C "$work/root" -c . | podman import --quiet - "$name" >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
fi
podman image exists "$name" ||
    echo "SKIPPED: all tests marked 'podman', because there is no image to build ours on." >&2
