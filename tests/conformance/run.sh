#!/usr/bin/env bash
# Checks lowbit against PyTorch and the real ExecuTorch runtime. Further arguments go to pytest.
#   LOWBIT_REFERENCE_PYTHON  a Python that has requirements.txt (default: .venv here, made when missing)
#   LOWBIT_CACHE             where exported networks and results are kept (default: .cache here)
#   LOWBIT_CASES             a folder of more cases: <case>/{model.pt2,io.npz,case.json}
#   QNN_LIB_DIR              Qualcomm's library (default: the wheel in requirements.txt)
#   LOWBIT_MODELS            a folder of more models: <model>/{model.pt2,calib.npz,eval.npz,meta.json,ref_*.json}
set -euo pipefail
cd "$(dirname "$0")"
repository=$(cd ../.. && pwd)
export LOWBIT_CACHE=${LOWBIT_CACHE:-$PWD/.cache}

python=${LOWBIT_REFERENCE_PYTHON:-}
if [ -z "$python" ]; then
  python=$PWD/.venv/bin/python
  if ! cmp -s requirements.txt .venv/requirements.txt; then
    echo "making the reference environment in tests/conformance/.venv (some minutes, 6 GB)"
    rm -rf .venv
    python3 -m venv .venv
    grep -v -e timm -e transformers -e onnxruntime-qnn requirements.txt > .venv/first.txt
    "$python" -m pip install -q --disable-pip-version-check -r .venv/first.txt
    "$python" -m pip install -q --disable-pip-version-check --no-deps torchvision==0.28.0
    "$python" -m pip install -q --disable-pip-version-check --no-deps "$(grep ^onnxruntime-qnn requirements.txt)"
    grep -v onnxruntime-qnn requirements.txt > .venv/rest.txt
    "$python" -m pip install -q --disable-pip-version-check -r .venv/rest.txt
    cp requirements.txt .venv/requirements.txt
  fi
fi

cargo build --release -q --manifest-path "$repository/Cargo.toml" -p lowbit -p lowbit-pt2 --bins --example copy
export LOWBIT=${LOWBIT:-${CARGO_TARGET_DIR:-$repository/target}/release/lowbit}

# Exported networks are kept for one version of their sources.
stamp=$(cat requirements.txt export_zoo.py zoo/*.py | sha256sum | cut -c1-16)
if [ "$(cat "$LOWBIT_CACHE/stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$LOWBIT_CACHE"
  mkdir -p "$LOWBIT_CACHE"
fi
"$python" export_zoo.py "$LOWBIT_CACHE/zoo" 2> "$LOWBIT_CACHE/export.log" | tail -1
echo "$stamp" > "$LOWBIT_CACHE/stamp"

"$python" -m pytest -q -n 2 --dist worksteal -p no:cacheprovider "$@"
