"""What probes and Prometheus read over HTTP. Who may read it is the console's policy."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from monitoring.collect import exposition
from monitoring.grafana.tokens import key_set
from monitoring.health import why_not_ready, why_unhealthy

OPENMETRICS = "application/openmetrics-text"


def answer(fault: str | None) -> JsonResponse:
    """200 or 503, with the reason for people; machines read the status."""
    response = JsonResponse({"status": "ok"} if fault is None else {"status": "unavailable", "reason": fault})
    response.status_code = 200 if fault is None else 503
    response["Cache-Control"] = "no-store"
    return response


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """Liveness: 503 when the engine died, or has work and does not step."""
    return answer(why_unhealthy())


@require_safe
async def ready(request: HttpRequest) -> HttpResponse:
    """Readiness: healthy, not draining, a model loaded, the database there and taking writes."""
    return answer(await why_not_ready())


@require_safe
async def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text, or OpenMetrics where the scraper asks for it."""
    if OPENMETRICS in request.headers.get("Accept", ""):
        # Every name is legal without escaping; the default scheme would turn vLLM's colons into underscores.
        text = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
            exposition(), escaping=openmetrics.ALLOWUTF8
        )
        return HttpResponse(text, content_type=openmetrics.CONTENT_TYPE_LATEST)
    return HttpResponse(generate_latest(exposition()), content_type=CONTENT_TYPE_LATEST)


@require_safe
def grafana_jwks(request: HttpRequest) -> JsonResponse:
    """The public key that checks the tokens of embedded panels; Grafana asks for it without any."""
    if not settings.GRAFANA_URL:
        raise Http404
    return JsonResponse(key_set(settings.DATA_DIR))
