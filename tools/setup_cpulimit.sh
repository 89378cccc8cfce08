#!/bin/sh
# Have a cpulimit binary: the one on PATH, or Debian's, unpacked into DIR without installing it.
# Never fails: without it the chaos trials leave it out, and this says so.
# usage: setup_cpulimit.sh DIR
set -eu
dir=$1
if command -v cpulimit >/dev/null || [ -x "$dir/usr/bin/cpulimit" ]; then
    exit 0
fi
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    work=$(mktemp -d)
    # apt drops its privileges for downloads; let it write here.
    chmod 755 "$work"
    if (cd "$work" && { apt-get download -qq cpulimit 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq cpulimit 2>/dev/null; }; }); then
        mkdir -p "$dir"
        dpkg-deb -x "$work"/cpulimit_*.deb "$dir"
    fi
    rm -rf "$work"
fi
if [ ! -x "$dir/usr/bin/cpulimit" ]; then
    echo "LEFT OUT: the same trials on cpulimit, which cannot be fetched: apt-get install cpulimit" >&2
fi
