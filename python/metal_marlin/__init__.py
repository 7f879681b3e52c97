# SPDX-License-Identifier: Apache-2.0
"""Metal Marlin from Python, over libmarlin by ctypes: numpy arrays and text in and out.

MarlinLinear           a matrix of weights, of a checkpoint or an array: y = x W^T + bias
MetalQuantizedLinear   the same with quantized weights, and the quantizer of one matrix
Model, Session         a language model, and one timeline of tokens on it
"""

from ._library import MarlinError, library_path, library_version
from .linear import MarlinLinear, MetalQuantizedLinear
from .model import Answer, Model, Session, Stream

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "MarlinError",
    "MarlinLinear",
    "MetalQuantizedLinear",
    "Model",
    "Session",
    "Stream",
    "library_path",
    "library_version",
]
