"""A hub leads to the internet alone, to the address that was looked at."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from inference.convert.hub import destination
from inference.convert.hub.destination import is_global, pinned
from inference.convert.hub.snapshot import HubRefused, RemoteFile
from inference.convert.hub.transfer import Transfer

HUB, PUBLIC = "hub.example", "93.184.216.34"
INSIDE = [
    *("127.0.0.1", "10.0.0.5", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("::1", "::", "fe80::1", "fd00::5", "::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:7f00:1::", "224.0.0.1"),
]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What each name stands for, look-up by look-up; the last answer stays."""
    table = {HUB: [[PUBLIC]]}

    def look_up(host: str, port: Any, **_: Any) -> list[Any]:
        answers = table.get(host, [[host]])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in found]

    looking = SimpleNamespace(getaddrinfo=look_up, SOCK_STREAM=socket.SOCK_STREAM)
    monkeypatch.setattr(destination, "socket", looking)
    monkeypatch.setattr(destination, "getproxies", dict)
    return table


def lead(host: str) -> httpx2.URL:
    return pinned(httpx2.URL(f"https://{host}/file?x=1"), httpx2.URL(f"https://{HUB}/file"))[0]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused_by_number_by_name_and_among_others(
    names: dict[str, list[list[str]]], address: str
) -> None:
    names["cdn.example"], names["mixed.example"] = [[address]], [[PUBLIC, address]]
    assert not is_global(address)
    for host in (f"[{address}]" if ":" in address else address, "cdn.example", "mixed.example"):
        with pytest.raises(HubRefused, match="not followed"):
            lead(host)


def test_a_name_that_changes_its_address_is_asked_at_the_one_that_was_looked_at(
    names: dict[str, list[list[str]]],
) -> None:
    names["rebound.example"] = [["1.1.1.1"], ["127.0.0.1"]]
    url, headers, extensions = pinned(
        httpx2.URL("https://rebound.example:444/file?x=1"), httpx2.URL(f"https://{HUB}/")
    )
    assert str(url) == "https://1.1.1.1:444/file?x=1"
    assert (headers, extensions) == ({"Host": "rebound.example:444"}, {"sni_hostname": "rebound.example"})


def test_a_mirror_inside_may_lead_inside_and_a_proxy_looks_for_itself(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names[HUB] = [["10.0.0.2"]]
    assert lead("10.0.0.5").host == "10.0.0.5"
    names[HUB] = [[PUBLIC]]
    monkeypatch.setattr(destination, "getproxies", lambda: {"https": "http://proxy.example:3128"})
    assert lead("10.0.0.5").host == "10.0.0.5"


@pytest.fixture
def inside() -> Iterator[tuple[int, list[str]]]:
    """A server of this network, and who asked it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Host"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def test_a_redirect_into_this_network_connects_to_nothing(
    names: dict[str, list[list[str]]], inside: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, asked = inside

    def hub(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": f"http://127.0.0.1:{port}/secret"})

    mounts = {f"http://{HUB}": httpx2.MockTransport(hub)}
    with httpx2.Client(mounts=mounts) as client:
        transfer = Transfer(client, headers={}, check=lambda answer: None, on_bytes=lambda count: None)
        with pytest.raises(HubRefused, match="not followed"):
            transfer.download(RemoteFile("config.json", f"http://{HUB}/config.json", 6), tmp_path)
    assert asked == []


def certificate_of(name: str, folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / f"{name}.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password)
    file.write_bytes(private + certificate.public_bytes(pem))
    return file


@pytest.mark.parametrize("named", ["cdn.example", "other.example"])
def test_over_tls_the_certificate_is_still_the_names(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """Connected to by its address, the host is asked for, and has to prove, its name."""
    names["cdn.example"] = [["127.0.0.1"]]
    monkeypatch.setattr(destination, "is_global", lambda address: True)
    file = certificate_of(named, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, _: asked.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        home, place = httpx2.URL(f"https://{HUB}/"), f"https://cdn.example:{listener.getsockname()[1]}/file"
        url, headers, extensions = pinned(httpx2.URL(place), home)
        heads: list[bytes] = []

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    heads.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:  # the client goes away
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with httpx2.Client(verify=ssl.create_default_context(cafile=file)) as client:
            if named == "cdn.example":
                client.get(url, headers=headers, extensions=extensions)
                assert f"host: {place.split('/')[2]}".encode() in heads[0].lower()
            else:
                with pytest.raises(httpx2.ConnectError):
                    client.get(url, headers=headers, extensions=extensions)
        thread.join()
    assert asked == ["cdn.example"]
