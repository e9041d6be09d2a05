import os

from django.core.asgi import get_asgi_application

from presign_middleware import Presigner
from presign_middleware.asgi import PresignMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "files.settings")
application = PresignMiddleware(get_asgi_application(), presigner=Presigner.from_env())
