"""Every attribute name of our traces, once: OpenTelemetry's own where it has one, ours below `pilothouse.`

Nothing that a caller wrote freely has a name here: no prompt, stop string, `user`, address or key.
"""

from __future__ import annotations

SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE = "service.instance.id"

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
OUTPUT_TYPE = "gen_ai.output.type"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_CHOICES = "gen_ai.request.choice.count"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_TOP_K = "gen_ai.request.top_k"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

REQUEST_ID = "pilothouse.request_id"  # what `x-request-id` says
REVISION = "pilothouse.revision"
TRANSPORT = "pilothouse.transport"
OUTCOME = "pilothouse.outcome"
QUEUE_SECONDS = "pilothouse.queue_seconds"
FIRST_TOKEN_SECONDS = "pilothouse.time_to_first_token_seconds"  # noqa: S105 - no password
JOB_ID = "pilothouse.job.id"
JOB_KIND = "pilothouse.job.kind"

OURS = "pilothouse."  # before what a stretch of a request tells: reason, tokens, batch, cached_tokens
