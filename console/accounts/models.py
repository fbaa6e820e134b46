"""People and the teams that they and their keys belong to."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.db import models

from console.accounts.roles import Role, allows


def new_salt() -> str:
    return secrets.token_hex(16)


class Team(models.Model):
    """Who pays and who may share cached prefixes: the salt keeps one team's cache from another's sight."""

    name = models.CharField(max_length=100, unique=True)
    salt = models.CharField(max_length=64, default=new_salt, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


if TYPE_CHECKING:
    PeopleManager = DjangoUserManager["User"]  # generic for the type checker alone
else:
    PeopleManager = DjangoUserManager


class UserManager(PeopleManager):
    use_in_migrations = False

    def create_user(
        self, username: str, email: str | None = None, password: str | None = None, **fields: Any
    ) -> User:
        return super().create_user(username, email, password, **({"is_staff": True} | fields))


class User(AbstractUser):
    """A person of the console. What they may do follows from their role alone."""

    groups = None  # type: ignore[assignment]
    user_permissions = None  # type: ignore[assignment]
    is_staff = models.BooleanField(default=True, editable=False)  # all may open the console
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.VIEWER)
    teams = models.ManyToManyField(Team, through="Membership", related_name="members")

    objects: ClassVar[UserManager] = UserManager()

    @property
    def is_admin(self) -> bool:
        return self.is_superuser or self.role == Role.ADMIN

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return self.is_active and (self.is_superuser or allows(Role(self.role), perm))

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_active


class Membership(models.Model):
    """A person in a team. The oldest membership is the one that the playground spends for."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="memberships")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "team"], name="one_membership_per_team")]
