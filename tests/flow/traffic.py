"""Steady streaming traffic on a route while its rollout moves, and what every answer was like."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.flow.house import House, eventually

REQUESTS_PER_SECOND = 20
NUM_TOKENS = 8


@dataclass
class Answer:
    """One streamed answer, as its client saw it. Times are of time.monotonic()."""

    sent: float
    status: int = 0
    first: float | None = None
    revisions: set[str] = field(default_factory=set)
    num_tokens: int = 0
    finish: str | None = None
    is_done: bool = False
    error: str = ""

    @property
    def fault(self) -> str:
        """Failed, truncated, or of two revisions; empty: sound."""
        if self.error or self.status != 200:
            return f"failed: {self.status} {self.error}"
        if not self.is_done or self.finish != "length" or self.num_tokens != NUM_TOKENS:
            return f"truncated: {self.num_tokens} tokens, finish {self.finish}, done {self.is_done}"
        return "" if len(self.revisions) == 1 else f"mixed: {self.revisions}"

    @property
    def revision(self) -> str:
        return next(iter(self.revisions), "")


class Traffic:
    """Sends requests at a steady pace from a thread of its own until it is left."""

    def __init__(self, house: House, key: str, *, model: str = "stub", prompt: str = "slow") -> None:
        self._url = f"{house.url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"}
        self._model, self._prompt = model, prompt
        self.answers: list[Answer] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    async def _send(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client, asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not self._is_over.is_set():
                answer = Answer(sent=time.monotonic())
                self.answers.append(answer)
                group.create_task(self._ask(client, answer, number=len(self.answers)))
                due += 1 / REQUESTS_PER_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, client: httpx.AsyncClient, answer: Answer, *, number: int) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"{self._prompt} {number}"}],
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "stream": True,
            "logprobs": True,  # one for each token, so that tokens can be counted
            **({"user": f"user-{number % 40}"} if number % 2 else {}),
        }
        try:
            async with client.stream("POST", self._url, json=body, headers=self._headers) as response:
                answer.status = response.status_code
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self._note(answer, line.removeprefix("data: "))
        except httpx.HTTPError as error:
            answer.error = repr(error)

    def _note(self, answer: Answer, data: str) -> None:
        if data == "[DONE]":
            answer.is_done = True
            return
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            answer.error = event["error"]["code"]
            return
        answer.revisions.add(event["system_fingerprint"])
        for choice in event["choices"]:
            if choice.get("logprobs"):
                answer.first = answer.first or time.monotonic()
                answer.num_tokens += len(choice["logprobs"]["content"])
            answer.finish = choice["finish_reason"] or answer.finish


@dataclass(frozen=True, slots=True)
class Undo:
    """Seconds from the click: until the old revision answered, until no new request met the new one."""

    first_old: float
    last_new: float

    @property
    def seconds(self) -> float:
        return max(self.first_old, self.last_new)


class Steering:
    """An operator's program at the management API."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._headers = house.headers(house.new_key("steering", scopes=["management"]))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self._house.url}/api/v1/{path}"
        answer = httpx.request(method, url, json=body, headers=self._headers, timeout=120)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def start(self, *, route: str, candidate: str, steps: list[tuple[int, int | None]]) -> int:
        made = [{"weight": weight, "pause_seconds": pause} for weight, pause in steps]
        started = self.call("POST", "rollouts", {"route": route, "candidate": candidate, "steps": made})
        return int(started["id"])

    def look(self, rollout: int) -> dict[str, Any]:
        return dict(self.call("GET", f"rollouts/{rollout}"))

    def wait_for(self, rollout: int, *, step: int = 0, state: str = "", seconds: float = 60.0) -> None:
        def is_there() -> bool:
            now = self.look(rollout)
            assert now["state"] != "aborted", now["reason"]
            return now["step"] >= step if step else now["state"] == state

        eventually(is_there, seconds=seconds)


def roll_there_and_back(
    traffic: Traffic, steering: Steering, *, route: str, old: str, new: str, pause: int
) -> Undo:
    """0 -> 10 -> 50 -> 100 % -> promoted -> undone, and how fast the undo was."""
    rollout = steering.start(route=route, candidate=new, steps=[(10, pause), (50, pause), (100, None)])
    steering.wait_for(rollout, step=3)
    time.sleep(0.5)
    steering.call("POST", f"rollouts/{rollout}/promote")
    time.sleep(1.0)
    before = len(traffic.answers)
    clicked = time.monotonic()
    steering.call("POST", f"rollouts/{rollout}/undo")

    def sent_since() -> list[Answer]:
        return [one for one in traffic.answers[before:] if one.sent >= clicked]

    firsts = eventually(lambda: [one.first for one in sent_since() if one.first and one.revision == old])
    time.sleep(2.5)
    lasts = [one.sent for one in sent_since() if one.revision == new]
    return Undo(first_old=min(firsts) - clicked, last_new=max(lasts, default=clicked) - clicked)


def assert_sound(answers: list[Answer], *, revisions: set[str]) -> None:
    faults = [(number, one.fault) for number, one in enumerate(answers) if one.fault]
    assert faults == [], f"{len(faults)} of {len(answers)}: {faults[:5]}"
    assert {one.revision for one in answers} == revisions
