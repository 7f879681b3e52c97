#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The tests of python/ over the library of this build. Skipped, with the reason, where Python, numpy or pytest are missing:
# the product needs none of them. PYTHON names another interpreter.
set -eu
marlin=$1 source=$2
build=$(cd "$(dirname "$marlin")" && pwd)
python=${PYTHON:-python3}

skip() {
    echo "skipped: $*"
    exit 77
}
[ -z "${MARLIN_SANITIZED:-}" ] || skip "an interpreter does not bring this build's sanitizer"
[ -e "$build/libmarlin.so" ] || [ -e "$build/libmarlin.dylib" ] || skip "the shared library is not built in $build"
command -v "$python" >/dev/null || skip "$python is not installed"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || skip "$python is older than 3.9"
for module in numpy pytest; do
    "$python" -c "import $module" 2>/dev/null || skip "$python has no $module"
done

cd /
export PYTHONPATH="$source/python" PYTHONDONTWRITEBYTECODE=1 MARLIN_LIBRARY="$build"
"$python" -m pytest -q -p no:cacheprovider "$source/python/tests"
