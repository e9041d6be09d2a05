"""What these tests have in the place of the others' surroundings: the credentials of whoever runs them."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_aws_environment() -> None:
    """Hide nothing."""
