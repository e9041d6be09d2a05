"""The pictures in the docs are what their commands draw."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def test_the_life_of_a_url_is_drawn_as_the_policy_has_it(tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.svg"
    subprocess.run([sys.executable, PICTURES / "url_life.py", drawn], check=True)

    kept = (PICTURES / "url-life.svg").read_text(encoding="utf-8")

    assert drawn.read_text(encoding="utf-8") == kept, "the policy has changed: make pictures"
    assert ElementTree.fromstring(kept).get("width") == "760"
