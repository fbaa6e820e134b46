"""Who looks at an embedded panel: a signed token for five minutes, and the public key that checks it.

Grafana reads the key from `/grafana/jwks.json`. The private key is made once, in DATA_DIR."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ALGORITHM = "ES256"
ISSUER = "pilothouse"
AUDIENCE = "grafana"
ROLE = "Viewer"
LIFE_SECONDS = 300
SKEW_SECONDS = 10  # Grafana's clock may be a little behind
FILE = "grafana-key.pem"
PUBLISHED = Path("grafana/jwks.json")  # beside the private key, in a folder that Grafana may be given


def token(data_dir: Path, *, username: str, now: float | None = None) -> str:
    """A viewer's token for this person."""
    at = int(time.time() if now is None else now)
    claims = {
        "sub": username,
        "name": username,
        "role": ROLE,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": at,
        "nbf": at - SKEW_SECONDS,
        "exp": at + LIFE_SECONDS,
    }
    key = private_key(data_dir)
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id(key)})


def key_set(data_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The public key as a JSON Web Key Set."""
    key = private_key(data_dir)
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {"keys": [{**public, "kid": key_id(key), "use": "sig", "alg": ALGORITHM}]}


def publish(data_dir: Path) -> None:
    """The key set as a file, for a Grafana that reaches us without TLS: it fetches over https only."""
    path = data_dir / PUBLISHED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(key_set(data_dir)))
    path.parent.chmod(0o755)  # Grafana runs as somebody else, and this key is public
    path.chmod(0o644)


def key_id(key: ec.EllipticCurvePrivateKey) -> str:
    """The key's thumbprint, as RFC 7638 makes it."""
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = {name: public[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=4)
def private_key(data_dir: Path) -> ec.EllipticCurvePrivateKey:
    """Made once and kept in DATA_DIR, readable by its owner alone."""
    path = data_dir / FILE
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / f"{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes at the first request must agree on one key
        if not path.exists():
            write_privately(path, new_key())
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic-curve key; delete it to have a new one made")
    return key


def new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_privately(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)
