"""`manage.py serve`: the one process of the default installation, from an empty folder to an open port."""

from __future__ import annotations

import logging
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from console.environment import environment
from console.server.startup import (
    FIRST_SIGN_IN,
    CannotStart,
    FirstStart,
    ensure_something_to_serve,
    prepare_database,
    settle_and_greet,
    start_engine,
    start_tracing,
)
from console.server.static_files import gather
from inference.protocol.errors import RequestRejected

CURL = """curl -N {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'"""


class Command(BaseCommand):
    """Everything in order: port, disk, database, engine, first account, then listen."""

    help = "Serve the console and the API (HOST, PORT, DATA_DIR, DATABASE_URL, REDIS_URL, ENGINE)."

    def handle(self, *args: Any, **options: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server listens and drains
        try:
            self._serve()
        except KeyboardInterrupt:
            self._say("Stopped before anything was served.")
        except CannotStart as error:
            raise CommandError(str(error)) from error

    def _serve(self) -> None:
        from console.channel.limits import limits_of
        from console.server.draining_server import DrainingServer, check_port, loop

        env = environment()
        check_port(env.host, env.port)
        limits = limits_of(env)
        start_tracing()
        prepare_database(self._say)
        try:
            ensure_something_to_serve(self._say)
            loop.run_until_complete(start_engine(self._say))
        except (RuntimeError, ValueError, RequestRejected) as error:  # --traceback shows where
            raise CannotStart(str(error)) from error
        first = settle_and_greet()
        gather()

        from console.asgi import application

        server = DrainingServer(
            application,
            host=env.host,
            port=env.port,
            limits=limits,
            notify_workers=lambda: self._announce(first),
        )
        server.run()
        if server.failure:
            raise CannotStart(server.failure)
        self._say("Drained and stopped.")

    def _announce(self, first: FirstStart | None) -> None:
        from console.catalog.queries import list_served_models

        env = environment()
        host = "127.0.0.1" if env.host in ("0.0.0.0", "::") else env.host  # noqa: S104 - shown, not bound
        url = f"http://{f'[{host}]' if ':' in host else host}:{env.port}"
        self._say(f"\nConsole   {url}/")
        if first is None:
            self._say(
                "Password  lost? manage.py reset_password admin    Key lost? manage.py issue_key NAME\n"
            )
            return
        model = next((one.name for one in list_served_models()), "MODEL")
        path, is_seen = env.data_dir / FIRST_SIGN_IN, self.stdout.isatty()
        if is_seen:
            self._say(first.lines() + "   (shown once, like the password)")
        self._say(f"Password and key are in {path}, for this account alone: delete it once they are kept.")
        self._say("\nTry it:\n")
        key = first.key if is_seen else f"$(sed -n 's/^API key *//p' {path})"
        self._say(CURL.format(url=url, key=key, model=model) + "\n")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
