from django.urls import path

from . import views

urlpatterns = [
    path("links/<str:names>", views.links),
    path("file/<str:name>", views.file),
    path("type/<str:name>", views.content_type),
]
