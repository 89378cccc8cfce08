#!/bin/sh
# Have systemd-analyze: the one on PATH, or Debian's with its libraries and units, unpacked into DIR without installing
# (and starting) anything. Never fails: without it the check of our units is skipped, and this says so.
# usage: setup_systemd.sh DIR
set -eu
dir=$1
if command -v systemd-analyze >/dev/null || [ -x "$dir/systemd-analyze" ]; then
    exit 0
fi
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    work=$(mktemp -d)
    chmod 755 "$work"
    if (cd "$work" && { apt-get download -qq systemd libsystemd-shared 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq systemd libsystemd-shared 2>/dev/null; }; })
    then
        # What a bare image lacks of what the program is linked with; names differ between releases.
        for library in libapparmor1 libip4tc2 libkmod2 libseccomp2 libssl3 libssl3t64; do
            (cd "$work" && apt-get download -qq "$library" 2>/dev/null) || true
        done
        mkdir -p "$dir"
        for package in "$work"/*.deb; do dpkg-deb -x "$package" "$dir"; done
        dir=$(cd "$dir" && pwd)
    fi
    rm -rf "$work"
fi
unpacked=$(find "$dir" -path "*bin/systemd-analyze" -type f 2>/dev/null | head -n 1)
if [ -n "$unpacked" ]; then
    # Its own libraries and units first: the program is of no use with another version's.
    libraries=$(find "$dir" -name 'libsystemd-shared-*.so' -printf '%h' -quit)
    cat >"$dir/systemd-analyze" <<END
#!/bin/sh
export LD_LIBRARY_PATH=$libraries:${libraries%/systemd}
export SYSTEMD_UNIT_PATH=$(dirname "$(find "$dir" -name sysinit.target -print -quit)")
exec $unpacked "\$@"
END
    chmod 755 "$dir/systemd-analyze"
    "$dir/systemd-analyze" --version >/dev/null 2>&1 || rm "$dir/systemd-analyze"
fi
if [ ! -x "$dir/systemd-analyze" ]; then
    echo "SKIPPED: the check of the systemd units, because systemd-analyze is not here and cannot be fetched." >&2
    echo "         To run it: apt-get install systemd" >&2
fi
