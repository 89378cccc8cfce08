#!/bin/sh
# Make the virtual environment DIR and install WHAT of this project into it, editable.
# usage: setup_venv.sh DIR WHAT
set -eu
dir=$1 what=$2
python=
for candidate in "${PYTHON:-}" python3.11 python3 python3.12 python3.13; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or later is needed; on Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
fi
if [ ! -x "$dir/bin/pip" ]; then
    rm -rf "$dir"
    if ! "$python" -m venv "$dir" >/dev/null 2>&1; then
        # Debian ships Python without ensurepip; its package python3-venv brings it.
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
            rm -rf "$dir"
            "$python" -m venv "$dir"
        else
            echo "$python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
            exit 1
        fi
    fi
fi
echo "installing $what into $dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --editable "$what"
