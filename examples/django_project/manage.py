"""Django's command line: python manage.py runserver. It serves `files.wsgi`, so with the middleware."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "files.settings")
execute_from_command_line(sys.argv)
