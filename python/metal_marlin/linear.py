# SPDX-License-Identifier: Apache-2.0
"""One matrix of weights by itself, plain or quantized."""

from __future__ import annotations

import os
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, Optional, Type, TypeVar, Union

from . import _library as _lib

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
else:
    from ._numpy import np

_Self = TypeVar("_Self", bound="MarlinLinear")


def _floats(array: npt.ArrayLike, what: str) -> FloatArray:
    """As contiguous float32, without a copy where it is that already."""
    a = np.asarray(array)
    if a.dtype.kind != "f":
        raise TypeError(f"{what} has type {a.dtype}: floating-point numbers are needed")
    return np.ascontiguousarray(a, dtype=np.float32)


def _matrix(array: npt.ArrayLike, what: str) -> FloatArray:
    a = _floats(array, what)
    if a.ndim != 2:
        raise ValueError(f"{what} has shape {a.shape}: a matrix [out, in] is needed")
    return a


def _options(threads: int, exact: bool) -> _lib.LinearOptions:
    return _lib.LinearOptions(threads=threads, exact=exact)


class MarlinLinear:
    """y = x W^T + bias, with W [out, in] as in a checkpoint.

    MarlinLinear(weight) multiplies by an array. One that is contiguous float32 is read in place: what is written
    to it later shows in later products. MarlinLinear.load reads one linear of a model directory.

    threads: workers of this linear's own, 0 = one per core. Any thread may call; calls take turns.
    """

    _handle: _lib.Handle

    def __init__(self, weight: npt.ArrayLike, *, threads: int = 0) -> None:
        w = _matrix(weight, "weight")
        out = c_void_p()
        _lib.call(
            "marlin_linear_wrap", w.ctypes.data, w.shape[0], w.shape[1], byref(_options(threads, False)), byref(out)
        )
        self._own(out, w)

    def _own(self, pointer: c_void_p, keep: Optional[FloatArray] = None) -> None:
        close = _lib.library().marlin_linear_close

        def close_and_forget(p: Any, _keep: Optional[FloatArray] = keep) -> None:
            close(p)  # the array is held as long as the linear reads it

        self._handle = _lib.Handle(pointer.value, close_and_forget)
        self._info = _lib.LinearInfo()
        _lib.library().marlin_linear_describe(pointer, byref(self._info))

    @classmethod
    def load(
        cls: Type[_Self],
        directory: Union[str, "os.PathLike[str]"],
        name: str,
        *,
        threads: int = 0,
        exact: bool = False,
    ) -> _Self:
        """The linear called `name` ("model.layers.0.mlp.up_proj") of a model directory, in whatever form it is
        stored, with its bias. exact: multiply by quantized weights in float32 rather than with x in int8."""
        out = c_void_p()
        _lib.call(
            "marlin_linear_open",
            _lib.encode_path(directory),
            _lib.encode_text(name, "name"),
            byref(_options(threads, exact)),
            byref(out),
        )
        self = cls.__new__(cls)
        self._own(out)
        self._check_kind(name)
        return self

    def _check_kind(self, name: str) -> None:
        pass

    # ---- what it is ----

    @property
    def out_features(self) -> int:
        return int(self._info.out)

    @property
    def in_features(self) -> int:
        return int(getattr(self._info, "in"))

    @property
    def quantized(self) -> bool:
        return bool(self._info.quantized)

    @property
    def has_bias(self) -> bool:
        return bool(self._info.bias)

    @property
    def bits(self) -> float:
        """Of a weight as stored, without scales."""
        return float(self._info.bits)

    @property
    def nbytes(self) -> int:
        """Of the weights as stored, with scales and padding."""
        return int(self._info.bytes)

    def weight(self) -> FloatArray:
        """W [out, in] as numbers; of quantized weights those that they stand for. A copy."""
        w = np.empty((self.out_features, self.in_features), np.float32)
        with self._handle.use() as pointer:
            _lib.call("marlin_linear_weights", pointer, w.ctypes.data)
        return w

    # ---- use ----

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """x [..., in] -> y [..., out]"""
        rows = _floats(x, "x")
        if rows.ndim == 0 or rows.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {rows.shape}: its last size must be {self.in_features}")
        n = int(np.prod(rows.shape[:-1], dtype=np.int64))
        y = np.empty(rows.shape[:-1] + (self.out_features,), np.float32)
        with self._handle.use() as pointer:
            _lib.call("marlin_linear_multiply", pointer, rows.ctypes.data, n, y.ctypes.data)
        return y

    def close(self) -> None:
        """Gives the memory back, when no call runs. A later use is a ValueError."""
        self._handle.release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features} -> {self.out_features}, {self.bits:g} bits)"


class MetalQuantizedLinear(MarlinLinear):
    """A linear with quantized weights.

    MetalQuantizedLinear(weight, bits=4) quantizes an array [out, in], which is not needed afterwards.
    MetalQuantizedLinear.load reads one that a model directory has in quantized form.

    bits: 2 to 6 (trellis tiles), or 8 (rows of int8).
    inputs: [n, in] rows that the linear will see, from a calibration run; or
    hessian: [in, in] their second moments, inputs.T @ inputs. Either makes y better, not each weight.
    seed: of random signs; the same seed gives the same weights whatever the number of threads.
    exact: multiply in float32 rather than with x in int8: slower, and without its per cent of noise.
    """

    def __init__(
        self,
        weight: npt.ArrayLike,
        bits: int = 4,
        *,
        inputs: Optional[npt.ArrayLike] = None,
        hessian: Optional[npt.ArrayLike] = None,
        seed: int = 0,
        threads: int = 0,
        exact: bool = False,
    ) -> None:
        w = _matrix(weight, "weight")
        h = _moments(w.shape[1], inputs, hessian)
        q = _lib.Quantization(bits=bits, hessian=None if h is None else h.ctypes.data, seed=seed)
        out = c_void_p()
        _lib.call(
            "marlin_linear_quantize",
            w.ctypes.data,
            w.shape[0],
            w.shape[1],
            byref(q),
            byref(_options(threads, exact)),
            byref(out),
        )
        self._own(out)

    def _check_kind(self, name: str) -> None:
        if not self.quantized:
            self.close()
            raise _lib.MarlinError(
                f"'{name}' is not quantized: use MarlinLinear.load, or quantize its weight()", "unsupported"
            )

    @property
    def error(self) -> float:
        """Relative squared error of quantizing: of the weights, or with inputs or a Hessian of y. 0 where it was
        loaded."""
        return float(self._info.error)


def _moments(
    channels: int, inputs: Optional[npt.ArrayLike], hessian: Optional[npt.ArrayLike]
) -> Optional[FloatArray]:
    """The Hessian [channels, channels], or None when nothing was given."""
    if inputs is not None and hessian is not None:
        raise ValueError("inputs and hessian are two ways to say the same: give one of them")
    if inputs is not None:
        x = _floats(inputs, "inputs")
        if x.ndim == 0 or x.shape[-1] != channels or x.size == 0:
            raise ValueError(f"inputs has shape {x.shape}: rows of {channels} are needed")
        rows = x.reshape(-1, channels).astype(np.float64)
        return _floats(rows.T @ rows / len(rows), "inputs")
    if hessian is None:
        return None
    h = _matrix(hessian, "hessian")
    if h.shape != (channels, channels):
        raise ValueError(f"hessian has shape {h.shape}: [{channels}, {channels}] is needed")
    return h
