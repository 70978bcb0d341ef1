#!/bin/sh
# The GPU's benchmarks, in at most eight minutes, on a machine without a package registry:
#
#   WHEELS=wheels COMMIT=$(git rev-parse HEAD) benchmarks/gpu.sh OUT [--old TREE] [--seconds 470] [--only PART …] [--work DIR]
#
# OUT      folder for the JSON files and the table gpu.md
# WHEELS   folder of wheels that are missing there (pydantic, pydantic_core, annotated-types, typing-inspection, simplejpeg)
# COMMIT   the commit that is measured, where there is no git history
# PYTHON   the Python that has PyTorch; python3 by default
# DEVICE, SIZES   `DEVICE=cpu SIZES=tiny` tries every part on a CPU within minutes
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
[ $# -ge 1 ] || { echo "usage: benchmarks/gpu.sh OUT [--old TREE] [--seconds N] [--only PART …]" >&2; exit 2; }
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -n "${WHEELS:-}" ]; then
    for wheel in "$WHEELS"/*.whl; do
        [ -e "$wheel" ] || { echo "error: no wheels in $WHEELS" >&2; exit 2; }
        "$python" -m zipfile -e "$wheel" "$site"
    done
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
export COADVISE_COMMIT="${COMMIT:-}"
"$python" "$here/gpu_run.py" "$@" --device "${DEVICE:-cuda}" --sizes "${SIZES:-full}" &
pid=$!
trap 'kill -TERM $pid 2>/dev/null' TERM INT
code=0
wait $pid || code=$?
# A trap ends `wait`; what runs has then been told, and says its last words.
while kill -0 $pid 2>/dev/null; do wait $pid || code=$?; done
exit $code
