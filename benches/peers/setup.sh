#!/bin/sh
# Makes .venv beside this script: what the conformance tests use, torchvision without its dependencies, and ONNX Runtime.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/python -m pip install -q -r ../../tests/conformance/requirements.txt -r requirements.txt
.venv/bin/python -m pip install -q --no-deps torchvision==0.28.0
