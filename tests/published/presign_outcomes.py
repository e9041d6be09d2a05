"""
A pytest plugin for suites of others: hooks placed or not, and what becomes of each test written to a file.

Loaded with ``-p presign_outcomes``. ``PRESIGN_OUTCOMES`` names the file, ``PRESIGN_HOOKED`` says whether.
It runs in an environment of its own, where nothing else of this repository can be imported but the library.
"""

import json
import os
from pathlib import Path

import pytest

outcomes: dict[str, str] = {}
judged = [0]  # fetches that a hook decided about


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if os.environ["PRESIGN_HOOKED"] == "no":
        return
    import boto3

    from presign_middleware import Origin, Presigner, intercept
    from presign_middleware.clients import httpx, urllib3
    from presign_middleware.clients.catching import judge

    def counted(*args: object) -> object:
        judged[0] += 1
        return judge(*args)  # type: ignore[arg-type]  # whatever a hook asks

    for module in (httpx, urllib3):
        module.judge = counted  # type: ignore[attr-defined]  # the hooks find it there
    session = boto3.Session("AKIAPUBLISHEDSUITES0", "a-secret-of-no-account", region_name="eu-west-1")
    intercept(presigner=Presigner(Origin("published", bucket="published-suites", session=session)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        outcomes[report.nodeid] = "not collected"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = f"x{report.outcome}" if hasattr(report, "wasxfail") else report.outcome
    if report.when == "call" or outcome != "passed":
        outcomes[report.nodeid] = outcome if report.when == "call" else f"{outcome} in {report.when}"


def pytest_sessionfinish() -> None:
    found = {"outcomes": outcomes, "judged": judged[0]}
    Path(os.environ["PRESIGN_OUTCOMES"]).write_text(json.dumps(found))
