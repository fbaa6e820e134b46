#!/bin/sh
# Makes the secrets of compose.yaml once, in docker/secrets (which git and images ignore); what is there already stays.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets # nobody else gets in; the files are open, as containers read them under other user ids
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() {
    [ -s "secrets/$1" ] || printf '%s' "$2" >"secrets/$1"
    chmod 644 "secrets/$1"
}
keep postgres_password "$(random)"
keep grafana_password "$(random)"
keep database_url "postgresql://pilothouse:$(cat secrets/postgres_password)@postgres:5432/pilothouse"
