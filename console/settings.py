"""Django's settings. What can be configured is in `environment.py`; the rest is decided here."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from console import __version__
from console.environment import environment, kept_secret

ENV = environment()

DATA_DIR = ENV.data_dir
DEBUG = ENV.debug
SECRET_KEY = ENV.secret_key.get_secret_value() if ENV.secret_key else kept_secret(DATA_DIR, "secret_key")
KEY_PEPPER = ENV.key_pepper.get_secret_value() if ENV.key_pepper else kept_secret(DATA_DIR, "key_pepper")
LOG_LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"
AUDIT_KEYS = (
    ENV.audit_key.get_secret_value() if ENV.audit_key else kept_secret(DATA_DIR, "audit_key")
).split(",")
AUDIT_CHECKPOINT = DATA_DIR / "audit-checkpoint.json"
AUDIT_CHECKPOINT_COPY = ENV.audit_checkpoint_copy
AUDIT_ALARM = DATA_DIR / "audit-alarm.json"
LEASE_DIR = DATA_DIR / "servers"
ALLOWED_HOSTS = list(ENV.allowed_hosts)

INSTALLED_APPS = [
    "daphne",
    "unfold",  # before the admin that it dresses
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "allauth",
    "allauth.account",
    "allauth.usersessions",
    "axes",
    "csp",
    "django_cotton",
    "django_htmx",
    "console.audit",
    "console.accounts",
    "console.keys",
    "console.jobs",
    "console.catalog",
    "console.certificates",
    "console.usage",
    "console.limits",
    "console.rollouts",
    "console.gateway",
    "console.dashboard",
    "console.api",
    "console",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "console.server.static_files.Files",
    "console.server.static_files.Compressed",
    "console.server.unwritable.WritesOrSaysSo",
    "console.accounts.sessions.Sessions",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
    "axes.middleware.AxesMiddleware",
    "console.server.middleware.PolicyMiddleware",
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
                "console.dashboard.context.console",
            ]
        },
    }
]


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def sqlite(path: Path) -> dict[str, Any]:
    """An SQLite file made for durability: commits are on disk before they return, writers queue."""
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
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"  # gathered by `serve`: static_files.py
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "console.server.static_files.HashedFiles"},
}
WHITENOISE_USE_FINDERS = True  # plain names work where nothing was gathered

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

SESSION_ENGINE = "console.accounts.sessions"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
# A secret in a message must not lie in the session table: messages travel in the browser's own cookie.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"

# Behind a proxy that speaks TLS, and only then, cookies and the browser are held to TLS.
BEHIND_TLS = bool(ENV.trusted_proxies)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_TLS
SESSION_COOKIE_NAME = "__Host-pilothouse" if BEHIND_TLS else "pilothouse"
CSRF_COOKIE_NAME = "__Host-csrf" if BEHIND_TLS else "csrftoken"
SECURE_HSTS_SECONDS = 31_536_000 if BEHIND_TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = BEHIND_TLS
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS if host != "*"] if BEHIND_TLS else []

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "console.log_redaction.OneLine", "fmt": LOG_LINE}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would bypass the redaction, and mail errors to nobody.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
        "axes": {"level": "WARNING"},  # sign-ins are audit entries
        "daphne.server": {"level": "WARNING"},  # `serve` itself says where it listens
    },
}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]

# Sign-in: names and passwords of people whom an admin made; nobody signs up.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "dashboard:home"
ACCOUNT_ADAPTER = "console.accounts.adapter.Adapter"
USERSESSIONS_ADAPTER = "console.accounts.adapter.SessionsAdapter"
ACCOUNT_FORMS = {
    "login": "console.accounts.forms.SignInForm",
    "change_password": "console.accounts.forms.NewPasswordForm",
}
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_RATE_LIMITS = {"login_failed": None, "login": None}  # axes counts, and its page says what to do
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # nobody can lock somebody else out from elsewhere
AXES_USERNAME_CALLABLE = "console.accounts.sign_in_bounds.counted_name"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "console.audit.signals.address"
AXES_LOCKOUT_CALLABLE = "console.accounts.lockout.locked_out"
AXES_DISABLE_ACCESS_LOG = True  # sign-ins are audit entries
AXES_VERBOSE = False
AXES_ENABLE_ADMIN = False  # what it counts is forgotten after minutes

PROMETHEUS_URL = ENV.prometheus_url
GRAFANA_URL = ENV.grafana_url
GRAFANA_INTERNAL_URL = ENV.grafana_internal_url or ENV.grafana_url

# Nothing but our own files runs, and nobody frames us. No inline script or style, so no nonce either.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        # Single panels of Grafana; without it, nothing is framed.
        **({"frame-src": [origin(ENV.grafana_url)]} if ENV.grafana_url else {}),
    }
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "console.api.authentication.ManagementKey",  # the first: strangers get 401, not 403
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["console.api.permissions.ByPolicy"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "console.api.schema.OperationNames",
    "EXCEPTION_HANDLER": "console.api.errors.answer",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Pilothouse management API",
    "DESCRIPTION": "What the console's pages do, for programs: the same actions, policy and audit entries.",
    "VERSION": __version__,
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["console.api.permissions.ByPolicy"],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "KeyState": "console.keys.queries.State.choices",
        "JobState": "console.jobs.models.Job.State",
        "RolloutState": "console.rollouts.models.Rollout.States",
        "DeploymentState": "console.catalog.models.Deployment.State",
        "RequestState": "monitoring.live.State",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": False},
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "console.api.schema.with_errors",
    ],
}

# Django admin, for auditors. Its pages stand under the same policy: docs/decisions/0008.
UNFOLD = {
    "SITE_TITLE": "Pilothouse",
    "SITE_HEADER": "Pilothouse",
    "SITE_SYMBOL": "sailing",
    "SITE_URL": "/",
    "SHOW_LANGUAGES": False,  # the console's choice counts here, too
    "SHOW_HISTORY": False,  # the audit log is the history
    "SIDEBAR": {"navigation": "console.admin_site.navigation"},
}
