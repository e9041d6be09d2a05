"""A fleet whose sessions live for seconds, on a real S3 server: `python -m tests.soak`."""
