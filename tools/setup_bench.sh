#!/bin/sh
# Have what the benchmarks need beyond the development environment: gunicorn in DIR (a virtual environment, with this
# project's pinned version), and Debian's wrk. Never fails: what is missing is said, and its experiment is left out.
# usage: setup_bench.sh DIR
set -eu
dir=$1
if [ ! -x "$dir/bin/gunicorn" ]; then
    "$dir/bin/pip" install --quiet --disable-pip-version-check --editable '.[bench]' ||
        echo "LEFT OUT: experiment web; gunicorn cannot be installed: pip install '.[bench]'" >&2
fi
if ! command -v wrk >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get install -y -qq --no-install-recommends wrk >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk >/dev/null; }; } ||
            echo "LEFT OUT: experiment web; wrk cannot be installed: apt-get install wrk" >&2
    else
        echo "LEFT OUT: experiment web; it needs the load generator wrk: apt-get install wrk" >&2
    fi
fi
exit 0
