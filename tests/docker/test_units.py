"""The units and the proxy's settings of docs/deployment.md: checked by their own programs, and nginx by
use."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection

import httpx
import pytest
from websockets.sync.client import connect

from tests.flow.house import House, eventually, free_port
from tests.flow.requests import body, create, frames_until_end
from tests.test_house_rules import ROOT

NAME = "llm.example.org"
UNITS = sorted((ROOT / "docker" / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:  # it also looks whether the programs are there: any will do
        text = unit.read_text().replace("/opt/pilothouse/.venv/bin/", "/usr/bin/env ")
        (copy := tmp_path / unit.name).write_text(text.replace("/opt/pilothouse", "/tmp"))
        copies.append(copy)
    command = ["systemd-analyze", "verify", "--man=no", *copies]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "pilothouse" in line]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, str, ssl.SSLContext]]:
    """A house behind nginx with the settings as they are, but for ports and the certificate's place."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command = [*make.split(), "-keyout", str(key), "-out", str(certificate), *name]
    subprocess.run(command, check=True, capture_output=True)
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "ALLOWED_HOSTS": f"{NAME},127.0.0.1"}
    with House(tmp_path_factory.mktemp("proxied"), **settings) as house:
        site = (ROOT / "docker" / "nginx" / "pilothouse.conf").read_text()
        for old, new in (
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("    listen [::]:443 ssl;\n", ""),
            ("/etc/ssl/private/llm.example.org.pem", str(certificate)),
            ("/etc/ssl/private/llm.example.org.key", str(key)),
            ("127.0.0.1:8000", f"127.0.0.1:{house.port}"),
        ):
            assert old in site
            site = site.replace(old, new)
        (folder / "nginx.conf").write_text(
            f"pid {folder}/pid; error_log stderr; daemon off; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n{site}}}\n"
        )
        nginx_command = ["/usr/sbin/nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        subprocess.run([*nginx_command, "-t"], check=True, capture_output=True)
        nginx = subprocess.Popen(nginx_command, stderr=subprocess.DEVNULL)
        trust = ssl.create_default_context(cafile=certificate)
        eventually(lambda: _answers(port, trust))
        yield house, f"127.0.0.1:{port}", trust
        nginx.terminate()
        nginx.wait()


def client(address: str, trust: ssl.SSLContext) -> httpx.Client:
    """As though the name led to the proxy."""
    return httpx.Client(base_url=f"https://{address}", verify=trust, headers={"host": NAME}, timeout=30)


def _answers(port: int, trust: ssl.SSLContext) -> bool:
    try:
        return request(f"127.0.0.1:{port}", trust, "/health").status_code == 200
    except httpx.TransportError:
        return False


def request(address: str, trust: ssl.SSLContext, path: str) -> httpx.Response:
    with client(address, trust) as session:
        return session.get(path, extensions={"sni_hostname": NAME})


@pytest.mark.server
def test_a_stream_comes_through_the_proxy_token_by_token(proxy: tuple[House, str, ssl.SSLContext]) -> None:
    house, address, trust = proxy
    stamps = []
    with (
        client(address, trust) as session,
        session.stream(
            "POST",
            "/v1/chat/completions",
            json=body("slow", max_tokens=60, stream=True),
            headers=house.headers(),
            extensions={"sni_hostname": NAME},
        ) as response,
    ):
        assert response.status_code == 200
        stamps = [time.monotonic() for line in response.iter_lines() if line.startswith("data: {")]
    assert stamps[-1] - stamps[0] > 0.7 and len(stamps) >= 15


@pytest.mark.server
def test_a_socket_comes_through_the_proxy(proxy: tuple[House, str, ssl.SSLContext]) -> None:
    house, address, trust = proxy
    host, port = address.split(":")
    line = create_connection((host, int(port)))
    url, headers = f"wss://{NAME}/v1/responses", house.headers()
    with connect(url, sock=line, ssl=trust, additional_headers=headers) as socket:
        socket.send(create())
        assert frames_until_end(socket)[-1]["type"] == "chat.completion.done"


@pytest.mark.server
def test_cookies_are_for_tls_alone_and_metrics_for_nobody(proxy: tuple[House, str, ssl.SSLContext]) -> None:
    _, address, trust = proxy
    page = request(address, trust, "/account/sign-in/")
    assert page.status_code == 200 and "strict-transport-security" in page.headers
    assert "__Host-csrf" in page.headers["set-cookie"] and "Secure" in page.headers["set-cookie"]
    assert request(address, trust, "/metrics").status_code in (302, 403)
