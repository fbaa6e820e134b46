"""Where this process's traces go, as the environment says; `monitoring.tracing` does the rest."""

from __future__ import annotations

from console import __version__
from console.environment import environment
from monitoring import tracing

FLUSH_SECONDS = 3.0  # for the last ones, at the end


def start() -> None:
    """Send traces from now on, where OTEL_EXPORTER_OTLP_ENDPOINT says so. Raises `tracing.ExtraMissing`."""
    env = environment()
    headers = env.otel_exporter_otlp_headers
    tracing.start(
        endpoint=env.otel_exporter_otlp_endpoint,
        headers=headers.get_secret_value() if headers else "",
        version=__version__,
    )


def stop() -> None:
    """Send what waits, but not for long."""
    tracing.stop(FLUSH_SECONDS)
