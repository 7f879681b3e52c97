# SPDX-License-Identifier: Apache-2.0
"""numpy where it is installed; where not, the package can be imported, and says what it lacks when it is used."""

from __future__ import annotations

from typing import Any


class _Missing:
    def __getattr__(self, name: str) -> Any:
        raise ImportError("metal_marlin needs numpy for this: pip install numpy")


try:
    import numpy as np
except ImportError:
    np = _Missing()  # type: ignore[assignment]
