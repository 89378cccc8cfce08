#!/bin/sh
# Have prometheus and promtool: those on PATH, or Debian's, unpacked into DIR without installing (and starting) a service.
# Never fails: without them their tests are skipped, and this says so.
# usage: setup_prometheus.sh DIR
set -eu
dir=$1
if { command -v prometheus && command -v promtool; } >/dev/null || [ -x "$dir/usr/bin/promtool" ]; then
    exit 0
fi
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    work=$(mktemp -d)
    chmod 755 "$work"
    if (cd "$work" && { apt-get download -qq prometheus 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq prometheus 2>/dev/null; }; }); then
        mkdir -p "$dir"
        dpkg-deb -x "$work"/prometheus_*.deb "$dir"
    fi
    rm -rf "$work"
fi
if [ ! -x "$dir/usr/bin/promtool" ]; then
    echo "SKIPPED: all tests marked 'prometheus', because it is not here and cannot be fetched." >&2
    echo "         To run them: apt-get install prometheus" >&2
fi
