import os

from django.core.wsgi import get_wsgi_application

from presign_middleware import Presigner
from presign_middleware.wsgi import PresignMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "files.settings")
application = PresignMiddleware(get_wsgi_application(), presigner=Presigner.from_env())
