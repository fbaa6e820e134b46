#!/usr/bin/env bash
# Builds the images, starts all of compose.yaml, streams one answer, looks at metrics, traces and Grafana, and takes it down
# again, volumes included. Needs: Docker Engine 25 with the compose plugin (2.24), curl, 8 GB of memory, 12 GB of disk and
# the network. Uses a project name of its own, so that an installation beside it is left alone.
set -euo pipefail
cd "$(dirname "$0")"
export PORT="${PORT:-18000}" INSIDE_SUBNET="${INSIDE_SUBNET:-172.30.78.0/24}"
url="http://127.0.0.1:$PORT"

for need in docker curl; do
    command -v "$need" >/dev/null || { echo "smoke.sh needs $need" >&2; exit 2; }
done
docker compose version >/dev/null 2>&1 || { echo "smoke.sh needs Docker's compose plugin" >&2; exit 2; }
docker info >/dev/null 2>&1 || { echo "smoke.sh needs a Docker engine that answers" >&2; exit 2; }

compose() { docker compose --project-name pilothouse-smoke --file compose.yaml "$@"; }
inside() { compose exec -T web python -c "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=10).read().decode())" "$1"; }
tear_down() {
    status=$?
    [ "$status" = 0 ] || compose logs --no-color --tail 60
    compose down --volumes --timeout 160
    exit "$status"
}

sh secrets.sh
trap tear_down EXIT
compose build
compose up --detach
echo "Waiting for $url/ready (the first start fetches and converts a model)"
for _ in $(seq 300); do
    curl -fsS "$url/ready" >/dev/null 2>&1 && break
    sleep 3
done
curl -fsS "$url/ready"

key="$(compose exec -T web python manage.py issue_key smoke | grep -oE 'ph_[A-Za-z0-9_-]+' | head -n 1)"
auth="Authorization: Bearer $key"
model="$(curl -fsS -H "$auth" "$url/v1/models" | grep -oE '"id": *"[^"]+"' | head -n 1 | sed 's/.*"\([^"]*\)"$/\1/')"
answer="$(curl -fsSN --max-time 120 -H "$auth" -H 'Content-Type: application/json' "$url/v1/chat/completions" \
    -d "{\"model\": \"$model\", \"stream\": true, \"max_tokens\": 16, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}")"
grep -q '^data: \[DONE\]' <<<"$answer"
echo "Streamed from $model"

if curl -fsS "$url/metrics" >/dev/null 2>&1; then
    echo "/metrics must not be open to the published port" >&2
    exit 1
fi
inside http://web:8000/metrics | grep -q '^pilothouse_requests_total'
inside http://grafana:3000/api/health | grep -q '"database": *"ok"'
for _ in $(seq 20); do
    inside 'http://prometheus:9090/api/v1/query?query=pilothouse_engine_up' | grep -q '"value"' && break
    sleep 3
done
inside 'http://prometheus:9090/api/v1/query?query=pilothouse_engine_up' | grep -q '"value"'
for _ in $(seq 20); do
    inside 'http://tempo:3200/api/search?tags=service.name%3Dpilothouse' | grep -q '"traceID"' && break
    sleep 3
done
inside 'http://tempo:3200/api/search?tags=service.name%3Dpilothouse' | grep -q '"traceID"'
compose exec -T worker celery -A console.celery inspect ping --timeout 10 | grep -q pong
[ "$(compose exec -T web id -u)" = 10001 ]
echo "Smoke test passed"
