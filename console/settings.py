"""Django's settings. What can be configured is in `environment.py`; the rest is decided here."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from console.environment import environment, kept_secret

ENV = environment()

DATA_DIR = ENV.data_dir
DEBUG = ENV.debug
SECRET_KEY = ENV.secret_key.get_secret_value() if ENV.secret_key else kept_secret(DATA_DIR, "secret_key")
KEY_PEPPER = ENV.key_pepper.get_secret_value() if ENV.key_pepper else kept_secret(DATA_DIR, "key_pepper")
AUDIT_CHECKPOINT = DATA_DIR / "audit-checkpoint.json"
LEASE_DIR = DATA_DIR / "servers"
ALLOWED_HOSTS = list(ENV.allowed_hosts)

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "channels",
    "console.audit",
    "console.accounts",
    "console.keys",
    "console.catalog",
    "console.usage",
    "console.limits",
    "console.rollouts",
    "console.gateway",
    "console.dashboard",
    "console",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "console.urls"
ASGI_APPLICATION = "console.asgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
BASE_DIR = Path(__file__).resolve().parent.parent

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def sqlite(path: Path) -> dict[str, Any]:
    """An SQLite file made for durability: a commit is on disk before it returns, and writers queue instead of failing."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
        },
        # A file, since tests use several threads, and one of its own for each run.
        "TEST": {"NAME": str(Path(gettempdir()) / f"pilothouse-test-{os.getpid()}.sqlite3")},
    }


def database(url: str) -> dict[str, Any]:
    """Django's entry for a database URL; empty means SQLite in DATA_DIR."""
    if not url:
        return sqlite(DATA_DIR / "pilothouse.sqlite3")
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and len(parts.path) > 1:  # three slashes: relative; four: absolute
        return sqlite(Path(unquote(parts.path.removeprefix("/"))).absolute())
    if parts.scheme in ("postgres", "postgresql") and len(parts.path) > 1:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.removeprefix("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": parts.port or "",
            "OPTIONS": {
                **dict(parse_qsl(parts.query)),
                "pool": {"min_size": 2, "max_size": 16, "timeout": 10},
            },
        }
    raise ImproperlyConfigured(
        "DATABASE_URL must be like sqlite:////absolute/path, sqlite:///relative/path or "
        "postgresql://user:password@host:port/name"
    )


DATABASES = {"default": database(ENV.database_url)}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [ENV.redis_url]},
    }
    if ENV.redis_url
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
