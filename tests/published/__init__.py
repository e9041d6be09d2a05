"""The test suites that requests, httpx and urllib3 publish, with the hooks in place and without."""
