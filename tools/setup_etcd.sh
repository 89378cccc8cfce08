#!/bin/sh
# Have an etcd binary: the one on PATH, or Debian's, unpacked into DIR without installing (and starting) a service.
# Never fails: without etcd its tests are skipped, and this says so.
# usage: setup_etcd.sh DIR
set -eu
dir=$1
if command -v etcd >/dev/null || [ -x "$dir/usr/bin/etcd" ]; then
    exit 0
fi
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    work=$(mktemp -d)
    # apt drops its privileges for downloads; let it write here.
    chmod 755 "$work"
    if (cd "$work" && { apt-get download -qq etcd-server 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq etcd-server 2>/dev/null; }; }); then
        mkdir -p "$dir"
        dpkg-deb -x "$work"/etcd-server_*.deb "$dir"
    fi
    rm -rf "$work"
fi
if [ ! -x "$dir/usr/bin/etcd" ]; then
    echo "SKIPPED: all tests marked 'etcd', because there is no etcd here and it cannot be fetched." >&2
    echo "         To run them: apt-get install etcd-server" >&2
fi
