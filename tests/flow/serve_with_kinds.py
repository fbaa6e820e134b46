"""`manage.py serve` with the kinds of work that tests run."""

from __future__ import annotations

import django
from django.core.management import execute_from_command_line

from console.environment import name_settings

name_settings()
django.setup()
from tests.console.jobs import kinds_of_work  # noqa: E402, F401 - its kinds need Django's apps

execute_from_command_line(["manage.py", "serve"])
