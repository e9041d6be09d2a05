"""
One file per HTTP client, and what they share.

Each signs innermost and on a copy: the application, its logs, its history and outer
instrumentation keep the unsigned URL, because a signature is a bearer credential.
"""
