# SPDX-License-Identifier: Apache-2.0
"""The package against the header and its ways to find the library."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metal_marlin
from metal_marlin import _library

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include"


def test_version():
    text = (HEADERS / "marlin" / "version.h").read_text()
    version = re.search(r'MARLIN_VERSION +"(.*)"', text).group(1)
    assert metal_marlin.library_version() == metal_marlin.__version__ == version
    assert f'version = "{version}"' in (ROOT / "python" / "pyproject.toml").read_text()
    assert version.rsplit(".", 1)[0] == _library._ABI


def test_structs_are_those_of_the_header(tmp_path):
    cc = os.environ.get("CC") or shutil.which("cc")
    if not cc:
        pytest.skip("no C compiler (cc) is installed")
    lines = []
    for name, struct in _library.STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field in struct._fields_:
            lines.append(f'printf("{name}.{field[0]} %zu\\n", offsetof(struct {name}, {field[0]}));')
    source = tmp_path / "sizes.c"
    source.write_text(
        '#include "marlin/marlin.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    subprocess.run([*cc.split(), "-I", str(HEADERS), "-o", str(tmp_path / "sizes"), str(source)], check=True)
    said = subprocess.run([str(tmp_path / "sizes")], check=True, capture_output=True, text=True).stdout
    ours = []
    for name, struct in _library.STRUCTS.items():
        ours.append(f"{name} {ctypes.sizeof(struct)}")
        ours += [f"{name}.{field[0]} {getattr(struct, field[0]).offset}" for field in struct._fields_]
    assert said.split("\n")[:-1] == ours


def run_python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), **env},
    )


def test_the_library_named_by_the_environment_is_used(tmp_path):
    code = "import metal_marlin; print(metal_marlin.library_path(), metal_marlin.library_version())"
    path = metal_marlin.library_path()
    for where in (path, os.path.dirname(path)):
        done = run_python(code, MARLIN_LIBRARY=where)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(os.path.dirname(path))
    done = run_python(code, MARLIN_LIBRARY=str(tmp_path))
    assert done.returncode != 0 and "MARLIN_LIBRARY is" in done.stderr
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    done = run_python(code, MARLIN_LIBRARY=str(other))
    assert done.returncode != 0 and "MarlinError" in done.stderr and "other.so" in done.stderr


def test_importing_needs_no_library(tmp_path):
    done = run_python("from metal_marlin import MarlinLinear, MetalQuantizedLinear", MARLIN_LIBRARY=str(tmp_path))
    assert done.returncode == 0, done.stderr
