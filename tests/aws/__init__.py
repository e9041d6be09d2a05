"""What is relied on of S3, asked of a bucket on AWS: ``python -m tests.aws --bucket NAME``."""
