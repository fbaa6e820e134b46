#!/bin/sh
# Installs what an image needs into VENV: docker/install.sh EXTRA,EXTRA [REQUIREMENT...], from the root of the repository.
# PIP_INDEX_URL is pip's own; TORCH_INDEX names an index of torch builds (CPU, or one CUDA), none takes PyPI's; UNPINNED names
# a package whose line in constraints.txt does not count.
set -eu
extras="$1"
shift
venv="${VENV:-/venv}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
torch="$(sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)"
case ",$extras," in
*,engine,*)
    # Without dependencies, which come from PyPI below: an index of torch builds is asked for nothing else.
    [ -z "${TORCH_INDEX:-}" ] || "$venv/bin/pip" install --no-deps --index-url "$TORCH_INDEX" "$torch"
    ;;
esac
constraints="$(mktemp)"
grep -v "^${UNPINNED:-none}==" constraints.txt >"$constraints"
"$venv/bin/pip" install -c "$constraints" -e ".[$extras]" "$@"
rm "$constraints"
