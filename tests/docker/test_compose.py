"""docker/compose*.yaml, read as Docker's specification says; no Docker engine is asked."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from console.environment import Environment
from tests.test_house_rules import ROOT

DOCKER = ROOT / "docker"
FILES = ("compose.yaml", "compose.gpu.yaml", "compose.grafana.yaml")
OF_THE_BUILD = {"PIP_INDEX_URL", "TORCH_INDEX", "INSIDE_SUBNET"}  # only compose itself reads these
OURS = ("web", "worker")
PINNED = re.compile(r"[a-z0-9/.-]+:v?\d+\.\d+(\.\d+)?[a-z0-9.-]*")


def interpolated(text: str) -> str:
    """With the defaults of its variables, as compose fills them in where none is set."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(interpolated((DOCKER / name).read_text()))
    return content


def merged(below: Any, above: Any) -> Any:
    """Compose's own way for what our files have: mappings by key, lists one after the other."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merged(below.get(key), value) for key, value in above.items()}
    if isinstance(below, list) and isinstance(above, list):
        return list(dict.fromkeys([*below, *above]))
    return above


def services(*names: str) -> dict[str, Any]:
    whole: Any = {}
    for name in names or ("compose.yaml",):
        whole = merged(whole, read(name))
    found: dict[str, Any] = whole["services"]
    return found


@pytest.mark.parametrize("files", [FILES[:1], FILES[:2], FILES], ids=["cpu", "gpu", "grafana"])
def test_compose_files_are_what_the_specification_asks_for(files: tuple[str, ...]) -> None:
    whole: Any = {}
    for name in files:
        whole = merged(whole, read(name))
    whole = {key: value for key, value in whole.items() if not key.startswith("x-")}
    composed = PyCompose.from_json(json.dumps(whole))
    composed.validate()
    composed.to_spec()


def test_every_variable_of_ours_is_one_that_the_console_reads() -> None:
    known = {name.upper() for name in Environment.model_fields}
    for name in OURS:
        assert set(services(*FILES)[name]["environment"]) <= known
    said = {name for file in FILES for name in re.findall(r"\$\{(\w+)", (DOCKER / file).read_text())}
    assert said <= known | OF_THE_BUILD


def test_their_values_are_ones_that_the_console_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services(*FILES)["web"]["environment"].items():
        monkeypatch.setenv(name, value or "")
    settings = Environment(_env_file=None)
    assert "web" in settings.allowed_hosts and "[::1]" in settings.allowed_hosts
    (inside,) = map(ip_network, settings.metrics_from)
    assert str(inside) == read("compose.yaml")["networks"]["inside"]["ipam"]["config"][0]["subnet"]


def test_secrets_are_files_that_the_console_and_others_read() -> None:
    secrets = read("compose.yaml")["secrets"]
    script = (DOCKER / "secrets.sh").read_text()
    for name, where in secrets.items():
        assert where["file"] == f"./secrets/{name}" and f"keep {name} " in script
    for service in services(*FILES).values():
        assert set(service.get("secrets", [])) <= set(secrets)
        assert not [
            name for name in service.get("environment", {}) if re.search(r"PASSWORD$|_KEY$|TOKEN$", name)
        ]
    for name in OURS:
        assert set(services()[name]["secrets"]) <= set(Environment.model_fields)
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_only_the_web_port_is_published_and_only_here() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:8000:8000"]}
    with_grafana = services("compose.yaml", "compose.grafana.yaml")
    assert all(
        port.startswith("127.0.0.1:") for one in with_grafana.values() for port in one.get("ports", [])
    )
    assert read("compose.yaml")["networks"]["inside"]["internal"] is True
    reach_out = {name for name, service in services().items() if "outside" in service["networks"]}
    assert reach_out == set(OURS)


def test_ours_run_without_rights_on_a_read_only_root() -> None:
    for name in OURS:
        service = services(*FILES)[name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "user" not in service and "privileged" not in service


def test_every_image_is_pinned_and_every_mounted_file_is_there() -> None:
    for name, service in services(*FILES).items():
        if name not in OURS:
            assert PINNED.fullmatch(service["image"]), service["image"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
                assert volume.endswith(":ro")
            else:
                assert source in {one for file in FILES for one in read(file).get("volumes", {})}


def test_what_others_wait_for_says_when_it_is_healthy() -> None:
    every = services(*FILES)
    for name, service in every.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in every
            if how["condition"] == "service_healthy" and needed not in OURS:  # ours: in the Dockerfile
                assert "test" in every[needed]["healthcheck"], f"{name} waits for {needed}"


def test_the_stop_is_longer_than_the_drain() -> None:
    web = services()["web"]
    assert int(web["stop_grace_period"].removesuffix("s")) > int(web["environment"]["DRAIN_SECONDS"])


def test_traces_go_from_us_through_the_collector_to_tempo() -> None:
    web = services()["web"]["environment"]
    collector = yaml.safe_load((DOCKER / "otel" / "collector.yaml").read_text())
    tempo = yaml.safe_load((DOCKER / "tempo" / "tempo.yaml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[-1]
    assert web["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://otel:{port}"
    pipeline = collector["service"]["pipelines"]["traces"]
    assert set(pipeline["exporters"]) == set(collector["exporters"])
    assert set(pipeline["processors"]) == set(collector["processors"])
    port = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].split(":")[-1]
    assert collector["exporters"]["otlp/tempo"]["endpoint"] == f"tempo:{port}"
    assert tempo["storage"]["trace"]["local"]["path"].startswith("/var/tempo/")


def test_prometheus_scrapes_the_web_server_and_reads_the_alerts() -> None:
    settings = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    targets = [one for job in settings["scrape_configs"] for one in job["static_configs"][0]["targets"]]
    assert "web:8000" in targets
    mounted = [volume.split(":")[1] for volume in services()["prometheus"]["volumes"]]
    assert any(Path(path).match(pattern) for path in mounted for pattern in settings["rule_files"])


def test_grafana_is_told_what_its_provisioning_asks_for() -> None:
    grafana = services(*FILES)["grafana"]
    told = set(grafana["environment"])
    for path in (DOCKER / "grafana" / "provisioning").rglob("*.yml"):
        assert set(re.findall(r"\$\{(\w+)\}", path.read_text())) <= told
    mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
    settings = (DOCKER / "grafana" / "grafana.ini").read_text()
    for wanted in re.findall(r"^jwk_set_file = (\S+)/", settings, re.MULTILINE):
        assert wanted in mounted
    assert services()["grafana"]["environment"]["GF_AUTH_JWT_ENABLED"] == "false"  # nor is the key mounted
