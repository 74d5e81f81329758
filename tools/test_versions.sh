#!/usr/bin/env bash
# Run the tests of models and engine with several versions of transformers, by default with the oldest
# that pyproject.toml allows and with the newest release. Usage: tools/test_versions.sh [VERSION ...]
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

python=.venv/bin/python
tests="tests/test_patching.py tests/test_engine.py tests/test_published.py tests/test_models.py
tests/test_sweeps.py tests/test_attention.py"
oldest=$($python -c '
import re, tomllib
needed = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
print(*(re.search(r">=([\d.]+)", one)[1] for one in needed if one.startswith("transformers")))')
[[ $# -gt 0 ]] || set -- "$oldest" newest

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in "$@"; do
    wanted="transformers==$version"
    [[ $version != newest ]] || wanted="transformers<6"
    # This version precedes the one of .venv on the path; torch stays the same.
    $python -m pip install --quiet --disable-pip-version-check --upgrade \
        --target "$folder/$version" "$wanted"
    export PYTHONPATH="$folder/$version"
    $python -c 'import transformers; print("== transformers", transformers.__version__)'
    $python -m pytest -p no:cacheprovider $tests
done
