"""`manage.py issue_key NAME`: issue an API key; its secret, and nothing else, goes to stdout."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime, parse_duration

from console.accounts.actions import default_team
from console.accounts.models import Team
from console.audit.actor import Actor
from console.keys.actions import BadKey, issue
from console.keys.scopes import all_scopes
from console.limits.actions import BudgetTooSmall, set_budget
from console.management.database_command import DatabaseCommand


def moment(text: str) -> datetime:
    """A point in time (`2027-01-31T12:00`, UTC unless it says otherwise) or a stretch from now (`P30D`)."""
    try:
        if (point := parse_datetime(text)) is not None:
            return point if point.tzinfo else timezone.make_aware(point)
        if (stretch := parse_duration(text)) is not None:
            return timezone.now() + stretch
    except ValueError:
        pass  # well formed, but there is no such day: refused below like everything else
    raise ArgumentTypeError(f"{text!r} is neither a time like 2027-01-31T12:00 nor a stretch like P30D")


class Command(DatabaseCommand):
    help = "Issue an API key and print its secret, which is shown only this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is for")
        parser.add_argument("--team", help="the team that it belongs to (default: the team `default`)")
        parser.add_argument("--budget", type=int, metavar="TOKENS", help="tokens it may use in all")
        parser.add_argument(
            "--scope",
            action="append",
            default=[],
            choices=list(all_scopes()),
            help="what it may do, once for each (default: everything on /v1)",
        )
        parser.add_argument(
            "--expires", type=moment, metavar="WHEN", help="2027-01-31T12:00, or P30D from now"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with transaction.atomic():
                team = Team.objects.get(name=options["team"]) if options["team"] else default_team()
                issued = issue(
                    actor=Actor.system("command line"),
                    name=options["name"],
                    team=team,
                    expires_at=options["expires"],
                    scopes=options["scope"],
                )
                if options["budget"] is not None:
                    set_budget(
                        actor=Actor.system("command line"), key=issued.key, budget_tokens=options["budget"]
                    )
        except Team.DoesNotExist as error:
            raise CommandError(f"There is no team {options['team']!r}.") from error
        except (BadKey, BudgetTooSmall) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(issued.secret)
