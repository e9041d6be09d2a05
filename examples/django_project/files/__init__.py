"""
Private files of S3 behind an application: Django, httpx and presign-middleware.

    pip install django gunicorn httpx presign-middleware uvicorn
    export PRESIGN_ORIGINS="files=s3://acme-files/reports/?region=eu-west-1" SECRET_KEY=...
    gunicorn files.wsgi                 # or: uvicorn files.asgi:application

Credentials are boto3's. The middleware is one line in wsgi.py, or in asgi.py.
"""
