# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "golden" / "fixtures"
EXL3 = ROOT / "tests" / "golden" / "exl3"
# Any embedded model will do.
MODEL = sorted(p.parent for p in (ROOT / "models").glob("*/config.json"))[0]
