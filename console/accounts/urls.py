"""Sign-in, sign-out, one's password and one's sessions: the few of allauth's pages that this console has."""

from __future__ import annotations

from allauth.account import views
from allauth.usersessions.views import list_usersessions
from django.urls import path

from console.accounts.sign_in_bounds import bounded

urlpatterns = [
    path("sign-in/", bounded(views.login), name="account_login"),
    path("sign-out/", views.logout, name="account_logout"),
    path("disabled/", views.account_inactive, name="account_inactive"),
    path("password/", views.password_change, name="account_change_password"),
    path("sessions/", list_usersessions, name="usersessions_list"),
]
