"""The dashboard, the alert rules and the page about them are of metrics that there are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from presign_middleware.measuring import FAMILIES
from presign_middleware.prometheus import exposed

DOCS: Final = Path(__file__).parent.parent / "docs"
MONITORING: Final = DOCS / "monitoring"
RULES: Final = (MONITORING / "alerts.yml").read_text()
PAGE: Final = (DOCS / "how-to" / "monitoring.md").read_text()
ALERTS: Final = re.findall(r"alert: (\w+)", RULES)

with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is absent: make prometheus"
)


def panels() -> Iterator[dict[str, Any]]:
    board = json.loads((MONITORING / "grafana.json").read_text())
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_rules_are_sound() -> None:
    """Prometheus takes them."""
    promtool("check", "rules", "alerts.yml")


@with_promtool
def test_rules_fire_when_they_should_and_only_then() -> None:
    """Each for what it is for, and none where all is well."""
    promtool("test", "rules", "alerts_test.yml")


def test_every_rule_is_tested() -> None:
    """Once where it fires, once where it is quiet."""
    tested = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text())
    assert sorted(tested) == sorted(ALERTS * 2)


def test_every_rule_has_its_part_of_the_page() -> None:
    """The link leads to a heading, and the text below it names the rule."""
    parts = {
        re.sub(r"\W+", "-", title.lower()): text
        for title, text in re.findall(r"^### (.+)\n\n((?:(?!#).*\n?)+)", PAGE, re.MULTILINE)
    }
    links = re.findall(r"runbook_url: docs/how-to/monitoring\.md#(\S+)", RULES)
    assert [alert for alert, link in zip(ALERTS, links, strict=True) if f"`{alert}`" not in parts[link]] == []


@with_promtool
def test_queries_of_the_dashboard_are_sound(tmp_path: Path) -> None:
    """Prometheus takes each of them."""
    filled = [query.replace("$__rate_interval", "5m").replace("$job", ".*") for query in queries()]
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", path)


@pytest.mark.parametrize("text", [RULES, *queries()], ids=lambda text: text[:50])
def test_metrics_that_are_asked_for_are_there(text: str) -> None:
    """A renamed one would leave a panel empty, and a rule silent."""
    known = {name for family in FAMILIES for name in exposed(family)}
    asked = set(re.findall(r"presign_middleware_\w+", text))
    assert asked
    assert asked - known == set()


def test_the_page_names_every_metric() -> None:
    """With its labels, in both ecosystems' words."""
    rows = re.findall(r"^\| `(\w+)` \(`([\w.]+)`\) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    expected = [
        (
            exposed(family)[-1].removeprefix("presign_middleware_"),
            family.name,
            ", ".join([f"`{label}`" for label in family.labels]),
            family.text,
        )
        for family in FAMILIES
    ]
    assert rows == expected


def test_panels_do_not_overlap() -> None:
    """Each has a place of its own on the 24 columns of the board."""
    taken = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
