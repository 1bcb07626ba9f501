"""Writes the outputs of docs/tutorial anew by walking each page in a fresh lab, and the policies of docs/howto.

    python -m tests.docs.regenerate

Look at what changed before it is committed: a tutorial is read by people who have nothing else yet.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Walk every page; nothing is written for a page whose lab fails."""
    from tests.docs.policy import PAGE, with_policies
    from tests.docs.walk import Lab, followed, rewritten, typed

    PAGE.write_text(with_policies(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for page in sorted((ROOT / "docs" / "tutorial").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="drpilot-tutorial-") as folder:
            lab = Lab(Path(folder) / "lab")
            try:
                outputs = [followed(lab.type(each.command), elide=each.elides) for each in typed(text)]
            finally:
                lab.type("drpilot lab down")
        page.write_text(rewritten(text, outputs), encoding="utf-8")
        sys.stdout.write(f"{page.relative_to(ROOT)}: {len(outputs)} commands\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
