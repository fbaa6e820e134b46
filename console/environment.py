"""The console's settings as the environment gives them: typed, checked at start, secrets in DATA_DIR."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
WEB_ADDRESS = re.compile(
    r"https?://([^\s/@?#;,'\"]+@)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d+)?(/[A-Za-z0-9._~/-]*)?"
)
AtLeastOne = Annotated[int, Field(ge=1)]

ENGINE_SETTINGS = (
    "device", "dtype", "quantization", "quantize_head", "kv_dtype", "batching", "num_blocks",
    "max_batch_tokens", "max_num_seqs", "max_model_len", "num_draft_tokens", "batch_invariant", "num_threads",
)  # fmt: skip
SECRETS = (
    "SECRET_KEY", "KEY_PEPPER", "AUDIT_KEY", "DATABASE_URL", "REDIS_URL", "PROMETHEUS_URL", "HUB_TOKEN",
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS",
)  # fmt: skip


SECRET_FILES = "/run/secrets"  # noqa: S105 - where they lie


class Environment(BaseSettings):
    """Every variable that Pilothouse reads. docs/operations.md has a line for each; a test compares them."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        # A file for each, as container engines hand secrets over: /run/secrets/database_url
        secrets_dir=SECRET_FILES if Path(SECRET_FILES).is_dir() else None,
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    data_dir: Path = Path("data")
    # sqlite:///path or postgresql://user:password@host/name; empty: SQLite in DATA_DIR
    database_url: str = ""
    redis_url: str = ""
    engine: str = "inprocess"
    debug: bool = False
    secret_key: SecretStr | None = None  # empty: generated once into DATA_DIR
    key_pepper: SecretStr | None = None  # the HMAC key of API keys; empty: generated once into DATA_DIR
    # The HMAC key of audit entries; former ones behind it: new,old; empty: generated once into DATA_DIR
    audit_key: SecretStr | None = None
    audit_checkpoint_copy: Path | None = None  # a file elsewhere that gets each signed checkpoint as a line
    allowed_hosts: CommaSeparated = ("localhost", "127.0.0.1", "[::1]")
    trusted_proxies: CommaSeparated = ()  # addresses or networks whose X-Forwarded-* are believed
    metrics_from: CommaSeparated = ()  # addresses or networks that may read /metrics, beside this machine
    cors_origins: CommaSeparated = ()  # origins whose browsers may call /v1 with a key
    # What clients may take of this process before anybody asks who they are. docs/operations.md: "Bounds".
    max_connections: AtLeastOne = 4096
    connections_per_address: AtLeastOne = 512  # and requests being answered at once
    sockets_per_key: AtLeastOne = 32
    frames_per_second: AtLeastOne = 64  # of one WebSocket
    request_head_seconds: Annotated[float, Field(gt=0)] = 20.0
    request_body_seconds: Annotated[float, Field(gt=0)] = 60.0
    stall_seconds: Annotated[float, Field(gt=0)] = 30.0
    drain_seconds: Annotated[float, Field(ge=0)] = 120.0
    prometheus_url: str = ""  # http://host:9090, asked by the server; empty: panels from own readings
    grafana_url: str = ""  # http://host:3000, as browsers reach it; empty: panels are drawn by the console
    grafana_internal_url: str = ""  # as this server reaches it; empty: the same
    otel_exporter_otlp_endpoint: str = ""  # http://host:4318; empty: no traces (extra `otel`)
    otel_exporter_otlp_headers: SecretStr | None = None  # name=value,name=value

    # Where models come from.
    hub_kind: Literal["huggingface", "modelscope"] = "huggingface"
    hub_endpoint: str = ""  # of a mirror; empty: the kind's own
    hub_token: SecretStr | None = None  # for gated and private repositories
    import_folders: CommaSeparated = ()  # where people may import files from; empty: anywhere

    # What revisions may take of the device, together and each, and when they come and go by themselves.
    memory_budget: ByteSize | None = None  # 8GiB; empty: measured on the device
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.45  # of the budget, for one revision
    idle_seconds: Annotated[int, Field(ge=0)] = 0  # without a request; 0: idle revisions stay
    wake_seconds: Annotated[float, Field(ge=0)] = 60.0

    # Processor time that a model's chat template and tokenizer may take for one prompt.
    prepare_seconds: Annotated[float, Field(ge=1, le=600)] = 5.0

    # What an engine runs with where its revision says nothing else; EngineConfig explains each.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["int8", "fp8", "int4", "w8a8"] | None = None
    quantize_head: bool = False
    kv_dtype: Literal["auto", "fp8"] = "auto"
    batching: bool = True
    num_blocks: AtLeastOne | None = None
    max_batch_tokens: AtLeastOne | None = None
    max_num_seqs: AtLeastOne = 256
    max_model_len: AtLeastOne | None = None
    num_draft_tokens: Annotated[int, Field(ge=0, le=16)] = 0
    batch_invariant: bool = False
    num_threads: AtLeastOne | None = None

    @field_validator(
        "allowed_hosts", "trusted_proxies", "metrics_from", "cors_origins", "import_folders", mode="before"
    )
    @classmethod
    def split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("prometheus_url", "grafana_url", "grafana_internal_url")
    @classmethod
    def check_url(cls, value: str) -> str:
        """An address without query; only Prometheus's may carry a name and password."""
        if value and not WEB_ADDRESS.fullmatch(value):
            raise ValueError("must be like http://host:port or https://host/path")
        return value.rstrip("/")

    @field_validator("grafana_url", "grafana_internal_url")
    @classmethod
    def check_without_password(cls, value: str) -> str:
        if "@" in value:
            raise ValueError("must hold no name and password: browsers get to see it")
        return value

    @field_validator("import_folders")
    @classmethod
    def check_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not Path(folder).is_absolute() for folder in value):
            raise ValueError("must be absolute paths")
        return value

    @field_validator("data_dir")
    @classmethod
    def make_absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    def engine_settings(self) -> dict[str, Any]:
        """Arguments of EngineConfig, as the environment gives them."""
        return {name: getattr(self, name) for name in ENGINE_SETTINGS}


def name_settings() -> None:
    """What manage.py does first, for servers that import `console.asgi` directly, and for workers."""
    os.umask(0o077)  # database, secrets and models are for this account alone
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "console.settings")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment, read once."""
    return Environment()


def child_variables(**more: str) -> dict[str, str]:
    """What a child process gets to see of the environment: everything but the secrets, and `more`."""
    return {name: value for name, value in os.environ.items() if name.upper() not in SECRETS} | more


def kept_secret(data_dir: Path, name: str) -> str:
    """A random secret that is made once and kept in DATA_DIR, readable by its owner alone."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "secrets.json"
    with (data_dir / "secrets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at the first start must agree on one secret
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if name not in kept:
            kept[name] = secrets.token_urlsafe(48)
            part = path.with_suffix(".part")
            part.touch(mode=0o600)
            part.write_text(json.dumps(kept))
            part.replace(path)
    return kept[name]
