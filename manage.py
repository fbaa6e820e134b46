#!/usr/bin/env python
"""Django's command line, with Pilothouse's commands: serve, issue_key, reset_password, audit_verify, ..."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    os.umask(0o077)  # database, secrets and models are for this account alone
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "console.settings")
    if sys.argv[1:2] == ["serve"]:
        gc.disable()  # imports leave no garbage to look for; `start_engine` turns it on again
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
