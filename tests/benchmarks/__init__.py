"""What a URL costs, beside what it costs elsewhere: ``python -m tests.benchmarks``."""
