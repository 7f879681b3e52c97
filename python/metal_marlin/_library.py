# SPDX-License-Identifier: Apache-2.0
"""Finding libmarlin, what its header declares, and who closes what."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import sys
import threading
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_int32
from ctypes import c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

# The library whose header the structs below are; others before 1.0 may differ in any of them.
_ABI = "0.1"


class MarlinError(Exception):
    """What the library says went wrong. `status` is its stable name: "argument", "not_found", "format" ..."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


# ---- marlin/status.h and marlin/marlin.h ----


class Error(Structure):
    _fields_ = [("code", c_int), ("text", c_char * 512)]


class ModelOptions(Structure):
    _fields_ = [("threads", c_int), ("device", c_char_p), ("cache_type", c_char_p)]


class SessionOptions(Structure):
    _fields_ = [
        ("context", c_size_t),
        ("temperature", c_float),
        ("top_k", c_int),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("seed", c_uint64),
    ]


class Usage(Structure):
    _fields_ = [
        ("finish", c_int),
        ("prompt_tokens", c_size_t),
        ("completion_tokens", c_size_t),
        ("prompt_seconds", c_double),
        ("completion_seconds", c_double),
        ("tokens", POINTER(c_int32)),
    ]


TextFn = ctypes.CFUNCTYPE(c_bool, c_void_p, c_void_p, c_size_t)


class Request(Structure):
    _fields_ = [
        ("prompt", c_char_p),
        ("special", c_bool),
        ("ids", POINTER(c_int32)),
        ("n_ids", c_size_t),
        ("conversation", c_char_p),
        ("max_tokens", c_size_t),
        ("stop", POINTER(c_char_p)),
        ("n_stop", c_size_t),
        ("ignore_eos", c_bool),
        ("on_text", TextFn),
        ("user", c_void_p),
    ]


class LinearOptions(Structure):
    _fields_ = [("threads", c_int), ("exact", c_bool)]


class Quantization(Structure):
    _fields_ = [("bits", c_int), ("hessian", c_void_p), ("seed", c_uint64)]


class LinearInfo(Structure):
    _fields_ = [
        ("out", c_size_t),
        ("in", c_size_t),
        ("quantized", c_bool),
        ("bias", c_bool),
        ("bits", c_double),
        ("bytes", c_uint64),
        ("error", c_double),
    ]


# The structs by their names in C, for the test that compares them with the header.
STRUCTS = {
    "marlin_error": Error,
    "marlin_model_options": ModelOptions,
    "marlin_session_options": SessionOptions,
    "marlin_usage": Usage,
    "marlin_request": Request,
    "marlin_linear_options": LinearOptions,
    "marlin_quantization": Quantization,
    "marlin_linear_info": LinearInfo,
}

_P = c_void_p  # a model, session or linear, or an array
_E = POINTER(Error)
_N = POINTER(c_size_t)
_FUNCTIONS = {
    "marlin_version": (c_char_p, []),
    "marlin_status_name": (c_char_p, [c_int]),
    "marlin_model_open": (c_int, [c_char_p, POINTER(ModelOptions), POINTER(_P), _E]),
    "marlin_model_close": (None, [_P]),
    "marlin_tokenize": (c_int, [_P, c_char_p, c_size_t, c_uint, _P, c_size_t, _N, _E]),
    "marlin_detokenize": (c_int, [_P, _P, c_size_t, c_bool, c_char_p, c_size_t, _N, _E]),
    "marlin_session_options_default": (None, [_P, POINTER(SessionOptions)]),
    "marlin_session_open": (c_int, [_P, POINTER(SessionOptions), POINTER(_P), _E]),
    "marlin_session_close": (None, [_P]),
    "marlin_session_length": (c_size_t, [_P]),
    "marlin_session_context": (c_size_t, [_P]),
    "marlin_run": (c_int, [_P, POINTER(Request), POINTER(Usage), _E]),
    "marlin_cancel": (None, [_P, c_bool]),
    "marlin_logits": (c_int, [_P, POINTER(POINTER(c_float)), _N, _E]),
    "marlin_linear_open": (c_int, [c_char_p, c_char_p, POINTER(LinearOptions), POINTER(_P), _E]),
    "marlin_linear_wrap": (c_int, [_P, c_size_t, c_size_t, POINTER(LinearOptions), POINTER(_P), _E]),
    "marlin_linear_quantize": (
        c_int,
        [_P, c_size_t, c_size_t, POINTER(Quantization), POINTER(LinearOptions), POINTER(_P), _E],
    ),
    "marlin_linear_close": (None, [_P]),
    "marlin_linear_describe": (None, [_P, POINTER(LinearInfo)]),
    "marlin_linear_multiply": (c_int, [_P, _P, c_size_t, _P, _E]),
    "marlin_linear_weights": (c_int, [_P, _P, _E]),
}

# ---- finding it ----


def _names() -> List[str]:
    if sys.platform == "darwin":
        return [f"libmarlin.{_ABI}.dylib", "libmarlin.dylib"]
    return [f"libmarlin.so.{_ABI}", "libmarlin.so"]


def _folders() -> Iterator[Path]:
    package = Path(__file__).resolve().parent
    if (package.parent.parent / "include" / "marlin" / "marlin.h").is_file() and package.parent.name == "python":
        yield package.parent.parent / "build"  # a checkout
    prefixes = [Path(sys.prefix), Path("/usr/local"), Path.home() / ".local"]
    if package.parts[-4:-1] == ("share", "marlin", "python"):
        prefixes.insert(0, package.parents[3])  # an installed tree
    for prefix in prefixes:
        yield prefix / "lib"
        yield prefix / "lib64"
        yield from sorted((prefix / "lib").glob("*-linux-*"))


def _find() -> str:
    wanted = os.environ.get("MARLIN_LIBRARY")
    if wanted:
        path = Path(wanted)
        for candidate in [path / name for name in _names()] if path.is_dir() else [path]:
            if candidate.is_file():
                return str(candidate)
        raise MarlinError(f"MARLIN_LIBRARY is {wanted}, where there is no libmarlin", "not_found")
    tried = []
    for folder in _folders():
        tried.append(str(folder))
        for name in _names():
            if (folder / name).is_file():
                return str(folder / name)
    found = ctypes.util.find_library("marlin")
    if found:
        return found
    raise MarlinError(
        "libmarlin was not found in " + ", ".join(tried) + ": run 'make' in the checkout or 'make install', "
        "or set MARLIN_LIBRARY to the library or its folder",
        "not_found",
    )


@functools.lru_cache(maxsize=None)
def library_path() -> str:
    """The libmarlin that is used: $MARLIN_LIBRARY, that of this checkout or prefix, or the system's."""
    return _find()


@functools.lru_cache(maxsize=None)
def library() -> Any:
    """The loaded library, its functions typed. Loaded at the first use, not by importing the package."""
    path = library_path()
    try:
        lib = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as why:
        raise MarlinError(f"{path}: {why}", "unsupported") from None
    version = lib.marlin_version().decode()
    if version.split(".")[:2] != _ABI.split("."):
        raise MarlinError(f"{path} is version {version}, this package is for {_ABI}: install both anew", "unsupported")
    return lib


def library_version() -> str:
    """ "0.1.0" """
    return str(library().marlin_version().decode())


def check(status: int, error: Error) -> None:
    """Raises what a call of the library said."""
    if status != 0:
        name = library().marlin_status_name(status).decode()
        raise MarlinError(error.text.decode("utf-8", "replace") or name, name)


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status and takes an error last; raises MarlinError."""
    error = Error()
    check(getattr(library(), name)(*arguments, byref(error)), error)


def encode_path(path: "str | os.PathLike[str]") -> bytes:
    return os.fsencode(path)


def encode_text(text: str, what: str) -> bytes:
    """Text for a C string, which a NUL would end."""
    if "\0" in text:
        raise ValueError(f"{what} has a NUL character at {text.index(chr(0))}")
    return text.encode("utf-8")


# ---- who closes what ----

_handles_lock = threading.RLock()  # a collection may release a handle at any moment, also under the lock


class Handle:
    """An object of the library. It is closed when it was released and nobody uses it: no call that runs, and
    no object that stands on it (a session on its model), whatever order they are released in."""

    def __init__(self, pointer: Optional[int], close: Callable[[Any], None], parent: "Optional[Handle]" = None) -> None:
        self._pointer = pointer
        self._close = close
        self._parent = parent
        self._users = 0
        self._released = False
        if parent is not None:  # whoever opens on it uses it already, so it cannot be gone
            with _handles_lock:
                parent._users += 1

    def _add_user(self) -> None:
        with _handles_lock:
            if self._released:
                raise ValueError("it was closed")
            self._users += 1

    def _drop_user(self) -> None:
        with _handles_lock:
            self._users -= 1
        self._close_if_done()

    def _close_if_done(self) -> None:
        with _handles_lock:
            if not self._released or self._users or self._pointer is None:
                return
            pointer, self._pointer = self._pointer, None
        self._close(pointer)
        if self._parent is not None:
            self._parent._drop_user()

    @contextmanager
    def use(self) -> Iterator[int]:
        self._add_user()
        try:
            assert self._pointer is not None
            yield self._pointer
        finally:
            self._drop_user()

    @property
    def closed(self) -> bool:
        return self._released

    def release(self) -> None:
        with _handles_lock:
            self._released = True
        self._close_if_done()

    def __del__(self) -> None:
        self.release()
