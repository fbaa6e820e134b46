"""The ASGI application, for any server: the API plane, the console, WebSockets, and lifespan for servers that
have it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

from console.environment import environment, name_settings

name_settings()
console_pages = get_asgi_application()  # before everything below: it fills Django's registry of apps

from channels.routing import ProtocolTypeRouter  # noqa: E402

from console.accounts.sessions import with_sessions  # noqa: E402
from console.channel.application_bounds import ApplicationBounds  # noqa: E402
from console.endpoint_registry import endpoints  # noqa: E402
from console.gateway.http.handler import GatewayHandler  # noqa: E402
from console.gateway.websocket.consumer import consumers  # noqa: E402
from console.keys.headers import KeyHeaders  # noqa: E402
from console.policy import who_may_connect  # noqa: E402
from console.server.middleware import RequestId, TrustedProxies  # noqa: E402
from console.server.startup import lifespan  # noqa: E402
from monitoring.tracing import Traced  # noqa: E402

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

NO_SUCH_SOCKET = 4404
SOCKETS: dict[str, Any] = consumers()  # path -> consumer

gateway = GatewayHandler()


# The console has no such pages: what is asked for there is the API, without its /v1. Beside what is served
# these are endpoints of OpenAI's and others' that clients ask for.
API_WORDS = {one.path.split("/")[2] for one in endpoints()} - {"models"} | {
    "responses",
    "embeddings",
    "messages",
    "audio",
    "images",
    "moderations",
    "rerank",
}


def is_for_api(scope: Any) -> bool:
    """Whether the API plane answers: with an endpoint, or with an error in JSON that says where it is."""
    first, _, rest = scope["path"].removeprefix("/").partition("/")
    if first == "models" and not rest:
        return any(name == b"authorization" for name, _ in scope["headers"])
    return first == "v1" or first in API_WORDS


async def http(scope: Any, receive: Receive, send: Send) -> None:
    """/v1 has a handler of its own; everything else is the console."""
    is_api = is_for_api(scope)
    await (gateway if is_api else console_pages)(scope, receive, send)


async def websocket(scope: Any, receive: Receive, send: Send) -> None:
    consumer = SOCKETS.get(scope["path"])
    if consumer is None or who_may_connect(scope["path"]) is None:
        await send({"type": "websocket.close", "code": NO_SUCH_SOCKET})
    else:
        await consumer(scope, receive, send)


application = TrustedProxies(
    RequestId(
        ApplicationBounds(
            Traced(
                KeyHeaders(
                    ProtocolTypeRouter(
                        {
                            "http": http,
                            "websocket": with_sessions(websocket),
                            "lifespan": lifespan,
                        }
                    )
                )
            ),
            most_per_address=environment().connections_per_address,
        )
    ),
    proxies=environment().trusted_proxies,
)
