"""Playground: the page of the chat. What chats is static/console/playground, over the gateway's WebSocket."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

import inference.client
from console.catalog.models import Revision
from console.catalog.queries import Served, list_served_models
from console.dashboard.engine_state import current_stats
from console.policy import Who, permits

COLOURS = "abcd"  # of the series, as the charts give them out
ID_PLACE = "REQUEST-ID"  # where the page puts an answer's id into a link
SOCKET = "/v1/responses"
MAX_PANES = 4


@require_safe
def playground(request: HttpRequest) -> HttpResponse:
    served = list_served_models()
    may_chat = permits(Who.OPERATOR, request.user)
    asked = [*request.GET.getlist("model"), *request.GET.getlist("pane")][:MAX_PANES]
    offered = models(served, asked=asked) if may_chat else []
    context: dict[str, Any] = {"served": offered, "may_chat": may_chat}
    if offered:
        context["config"] = {
            "person": request.user.pk,
            "socket": SOCKET,
            "models": offered,
            "panes": [name for name in asked if any(one["name"] == name for one in offered)],
            "requestPage": reverse("dashboard:request", args=[ID_PLACE]),
            "signIn": reverse("account_login"),
            "texts": texts(),
        }
    return render(request, "dashboard/playground.html", context)


def models(served: tuple[Served, ...], *, asked: list[str]) -> list[dict[str, Any]]:
    """Every public name with the revisions that answer to it; then, as name@revision, each that is loaded.

    `asked`: those that the page's address puts into panes are there, loaded or not.
    """
    has_engine = current_stats() is not None
    cards = {card.revision: card for card in inference.client.current().models()} if has_engine else {}
    wanted = {name.partition("@")[2] for name in asked} | cards.keys()
    revisions = Revision.objects.filter(pk__in=wanted, deployment__files_deleted_at=None)
    names = [(one.name, one.revision, shares(one)) for one in served]
    names += [
        (f"{model}@{revision}", revision, led_to(revision, model, served))
        for revision, model in revisions.order_by("pk").values_list("pk", "model__name")
    ]
    return [
        {
            "name": name,
            "label": short(name),
            "revision": revision,
            "share": share,
            "colour": COLOURS[place % len(COLOURS)],
            "context": cards[revision].max_model_len if revision in cards else None,
            "chat": cards[revision].has_chat_template if revision in cards else None,
        }
        for place, (name, revision, share) in enumerate(names)
    ]


def short(name: str) -> str:
    """name@revision without the name a second time: a revision's id begins with it."""
    model, sign, revision = name.partition("@")
    return f"{model}{sign}{revision.removeprefix(f'{model}-')}"


def shares(served: Served) -> str:
    """How a name's requests are divided; empty where one revision answers all."""
    divided = {revision: share for revision, share in served.shares.items() if share}
    if len(divided) < 2:
        return ""
    return " / ".join(f"{share} %" for share in divided.values())


def led_to(revision: str, model: str, served: tuple[Served, ...]) -> str:
    """Which part of which name's requests a revision answers; its model's own name goes without saying."""
    parts = [
        f"{share} %"
        if one.name == model
        else _("%(share)d %% of %(name)s") % {"share": share, "name": one.name}
        for one in served
        if (share := one.shares.get(revision))
    ]
    return ", ".join(parts) or _("Not in any route")


def texts() -> dict[str, str]:
    """What the page's script says."""
    return {
        "you": _("You"),
        "model": _("Model"),
        "waiting": _("waiting for the first token"),
        "streaming": _("streaming"),
        "notLoaded": _("not loaded"),
        "send": _("Send"),
        "sendToAll": _("Send to %(number)s"),
        "context": _("%(number)s tokens of context"),
        "stopped": _("Stopped. What came until then stays in the conversation."),
        "cutLength": _("Ended at the limit of tokens."),
        "cutBudget": _("Ended because the budget is spent."),
        "emptyAnswer": _("The model ended without any output."),
        "retryIn": _("Retry in %(seconds)s s."),
        "seconds": _("%(number)s s"),
        "milliseconds": _("%(number)s ms"),
        "perSecond": _("%(number)s tokens/s"),
        "connecting": _("Connecting"),
        "open": _("Connected"),
        "asleep": _("Connects when you send"),
        "lost": _("Connection lost. Next try in %(seconds)s s."),
        "signedOut": _("Your session has ended: sign in again."),
        "answer": _("Answer of %(model)s"),
        "cleared": _("The conversation is cleared."),
        **failures(),
    }


def failures() -> dict[str, str]:
    """In a person's words, by the code of an `error` frame."""
    return {
        "error": _("The request failed."),
        "error:connection_lost": _("The connection was lost while the answer came."),
        "error:insufficient_quota": _("The budget is spent."),
        "error:rate_limit_exceeded": _("Too many requests or tokens in this minute."),
        "error:engine_overloaded": _("The queue is full."),
        "error:queue_timeout": _("The request waited too long in the queue."),
        "error:first_token_timeout": _("The first token took too long."),
        "error:token_timeout": _("The next token took too long."),
        "error:request_timeout": _("The answer took too long."),
        "error:engine_unavailable": _("The engine is not ready: the model may still be loading."),
        "error:model_not_found": _("This model is not served, or its revision is not loaded."),
        "error:context_length_exceeded": _("The conversation is longer than the model's context."),
        "error:server_shutting_down": _("The server is shutting down or starts anew."),
        "error:insufficient_permissions": _("Your role or team may not chat."),
        "error:not_signed_in": _("Your session has ended: sign in again."),
        "error:request_cancelled": _("An operator cancelled this request."),
        "error:invalid_value": _("The request was refused:"),
        "error:unsupported_parameter": _("The request was refused:"),
        "error:engine_error": _("The engine failed at this request; others go on."),
    }
