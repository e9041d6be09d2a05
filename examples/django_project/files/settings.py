"""As few settings as a project without a database needs."""

import os

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost").split()
ROOT_URLCONF = "files.urls"
WSGI_APPLICATION = "files.wsgi.application"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
