"""
Every example in the README and the docs runs, page by page, from top to bottom.
"""

import re
from pathlib import Path

import boto3
import pytest

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import interception

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
@pytest.mark.usefixtures("django_project")
def test_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's examples build on each other, and leave no hook behind."""
    # Of an application that is complete; they would stay for as long as the process lives.
    for module in (presign_middleware.asgi, presign_middleware.wsgi):
        monkeypatch.setattr(module, "intercept", lambda: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the keys that it found first
    names: dict[str, object] = {"__name__": page.stem}
    for example in EXAMPLE.findall(page.read_text()):
        exec(compile(example, str(page), "exec"), names)
    assert not interception._installed


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link is to a file that is there."""
    lost = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not lost
