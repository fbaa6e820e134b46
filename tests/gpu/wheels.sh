#!/bin/sh
# Wheels for a machine without an index: what the console needs beside torch, transformers and what comes with them.
# `sh tests/gpu/wheels.sh FOLDER` fetches them for Python 3.12 on x86-64 Linux; there,
# `sh tests/gpu/wheels.sh --install FOLDER TARGET` lays them out, and TARGET goes on PYTHONPATH.
set -eu
cd "$(dirname "$0")/../.."

if [ "$1" = --install ]; then
    exec "${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile --target "$3" "$2"/*.whl
fi

folder="$1"
pins="$(mktemp)"
trap 'rm -f "$pins"' EXIT
while read -r name; do
    case "$name" in "" | \#*) continue ;; esac
    grep -i "^$name==" constraints.txt || { echo "constraints.txt does not pin $name" >&2; exit 1; }
done < tests/gpu/wheels.txt > "$pins"
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64 --requirement "$pins"
du -sh "$folder"
