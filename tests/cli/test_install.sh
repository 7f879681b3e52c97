#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What `make install` puts into a folder of its own: the program finds its model there and nowhere else, examples/hello.c
# builds against the shared and the static library by pkg-config, the shared one shows marlin_* alone, the tree may be
# moved, and `make uninstall` takes all of it away again.
set -eu
marlin=$1 source=$2
build=$(cd "$(dirname "$marlin")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
skip() {
    echo "skipped: $*"
    exit 77
}
[ -z "${MARLIN_SANITIZED:-}" ] || skip "programs of others do not bring this build's sanitizer"
[ -f "$build/libmarlin.a" ] || skip "the library is not built in $build"
command -v pkg-config >/dev/null || skip "pkg-config is not installed"
unset MARLIN_MODEL MARLIN_LIBRARY PYTHONPATH LD_LIBRARY_PATH

# The list of what was installed belongs to who runs `make install` here: it is kept.
manifest=$build/install_manifest.txt
[ ! -f "$manifest" ] || cp "$manifest" "$dir/manifest"
DESTDIR=$dir/stage cmake --install "$build" --prefix /opt/marlin >"$dir/log" || fail "install: $(cat "$dir/log")"
mv "$manifest" "$dir/installed"
[ ! -f "$dir/manifest" ] || cp "$dir/manifest" "$manifest"
at=$dir/stage/opt/marlin
lib=$(dirname "$(find "$at" -name libmarlin.a)")

# ---- what is there ----

for file in bin/marlin include/marlin/marlin.h include/marlin/status.h include/marlin/version.h share/man/man1/marlin.1 \
    share/bash-completion/completions/marlin share/zsh/site-functions/_marlin share/fish/vendor_completions.d/marlin.fish \
    share/doc/marlin/LICENSE share/marlin/python/metal_marlin/__init__.py; do
    [ -s "$at/$file" ] || fail "$file is not installed"
done
for model in "$source"/models/*/; do
    name=$(basename "$model")
    diff -r "$model" "$at/share/marlin/models/$name" || fail "model $name is not what it was"
done
[ -L "$lib/libmarlin.so" ] || [ "$(uname -s)" = Darwin ] || fail "libmarlin.so is no link"
if grep -rIl -e "$source" -e "$dir" "$at" --include='*.pc' --include='*.h' --include='*.py'; then fail "paths of this machine"; fi

if command -v nm >/dev/null && [ "$(uname -s)" = Linux ]; then
    nm -D --defined-only "$lib/libmarlin.so" | awk '{ print $3 }' | sed 's/@.*//' | sort >"$dir/shown"
    if grep -v '^marlin_' "$dir/shown"; then fail "the shared library shows other names than marlin_*"; fi
    # Every function of the header is there, and nothing else.
    cat "$at"/include/marlin/*.h | grep -A1 '^MARLIN_API' | grep -o 'marlin_[a-z_]*(' | tr -d '(' | sort -u >"$dir/declared"
    diff "$dir/declared" "$dir/shown" || fail "declared and shown functions differ"
fi

# ---- the program, with nothing of the clone in reach ----

cp -R "$dir/stage" "$dir/moved"
rm -rf "$dir/stage"
at=$dir/moved/opt/marlin lib=$dir/moved${lib#"$dir/stage"}
said=$(cd / && "$at/bin/marlin" run "Once" -n 4 --greedy --quiet) || fail "the installed program does not run"
[ -n "$said" ] || fail "the installed program says nothing"
mv "$at/share/marlin/models" "$dir/models"
if (cd / && "$at/bin/marlin" run "Once" -n 4 --greedy >"$dir/out" 2>&1); then fail "a model from elsewhere was used"; fi
grep -q 'the default model was not found' "$dir/out" || fail "no word of the model: $(cat "$dir/out")"
mv "$dir/models" "$at/share/marlin/models"

# ---- programs of others ----

export PKG_CONFIG_PATH="$lib/pkgconfig"
[ "$(pkg-config --modversion marlin)" = "$("$at/bin/marlin" version | sed -n '1s/marlin //p')" ] || fail "version of marlin.pc"
model=$(find "$at/share/marlin/models" -mindepth 1 -maxdepth 1 -type d | sort | head -n 1)
cc=${CC:-cc}
# shellcheck disable=SC2046,SC2086 # lists of words
$cc -std=c11 -Wall -Werror -o "$dir/shared" "$source/examples/hello.c" $(pkg-config --cflags --libs marlin) || fail "shared"
shared=$(cd / && LD_LIBRARY_PATH=$lib DYLD_LIBRARY_PATH=$lib "$dir/shared" "$model" "Once") || fail "hello, shared, does not run"
[ -n "$shared" ] || fail "hello, shared, says nothing"
mkdir "$dir/alone"
cp "$lib/libmarlin.a" "$dir/alone"
# The folder with nothing but the archive comes first; the program is run with no path to the shared library.
# shellcheck disable=SC2046,SC2086
$cc -std=c11 -o "$dir/static" "$source/examples/hello.c" $(pkg-config --cflags marlin) -L"$dir/alone" \
    $(pkg-config --static --libs marlin) || fail "static"
(cd / && "$dir/static" "$model" "Once" >"$dir/out") || fail "hello, static, does not run"
[ -s "$dir/out" ] || fail "hello, static, says nothing"
if command -v c++ >/dev/null; then
    echo '#include "marlin/marlin.h"
int main() { return marlin_version()[0] == 0; }' >"$dir/cxx.cpp"
    # shellcheck disable=SC2046
    c++ -Wall -Werror -o "$dir/cxx" "$dir/cxx.cpp" $(pkg-config --cflags --libs marlin) || fail "C++"
    LD_LIBRARY_PATH=$lib DYLD_LIBRARY_PATH=$lib "$dir/cxx" || fail "C++ program"
fi
if command -v python3 >/dev/null && python3 -c 'import numpy' 2>/dev/null; then
    (cd / && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$at/share/marlin/python python3 -c \
        'from metal_marlin import MarlinLinear, MetalQuantizedLinear, library_path; print(library_path())') >"$dir/out" ||
        fail "the installed Python package"
    case $(cat "$dir/out") in "$(cd "$dir" && pwd -P)"/*) ;; *) fail "Python took $(cat "$dir/out")" ;; esac
else
    echo "the Python package is not tried: there is no python3 with numpy"
fi

# ---- and away again ----

mkdir -p "$dir/list" "$at/share/other"
cp "$dir/installed" "$dir/list/install_manifest.txt"
DESTDIR=$dir/moved "$source/scripts/uninstall" "$dir/list" >"$dir/out" || fail "uninstall"
left=$(find "$dir/moved" -type f -o -type l)
[ -z "$left" ] || fail "left behind: $left"
[ -d "$at/share/other" ] || fail "uninstall removed a folder of somebody else"
[ ! -e "$at/share/marlin" ] || fail "share/marlin is still there"
if DESTDIR=$dir/moved "$source/scripts/uninstall" "$dir/nothing" 2>"$dir/out"; then fail "uninstall of nothing"; fi
grep -q 'nothing was installed' "$dir/out" || fail "no word of it"
