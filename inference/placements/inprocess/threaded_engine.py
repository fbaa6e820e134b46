"""An engine as other threads use it: commands go in, events come out once a step, nobody polls."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from inference.placements.event_stream import EventStream
from inference.placements.inprocess.engine_loop import EngineLoop
from inference.placements.inprocess.outbox import Outbox
from inference.protocol.errors import NotReady, RequestRejected
from inference.protocol.events import EngineError, Event, Finish, FinishReason, Usage
from inference.protocol.requests import GenerateRequest
from inference.scheduling.engine import Engine

logger = logging.getLogger(__name__)

IDLE_AUDIT_SECONDS = 1.0  # after this long without work the engine's books are checked, once


class ThreadedEngine:
    """An engine in the loop's thread. What is public may be called from any other; only `stop` waits."""

    def __init__(self, engine: Engine, engine_loop: EngineLoop) -> None:
        self.card = engine.card
        self.stats = engine.stats()  # the last snapshot
        self.next_turn_at: float | None = None  # time.monotonic(): without a command, not before that
        self.has_ended = threading.Event()  # no turn will come any more
        self._engine = engine
        self._engine_loop = engine_loop
        self._commands: deque[Callable[[], None]] = deque()
        self._can_step, self._is_audited = False, True
        self._is_stopping = False
        self._error = ""  # why it died
        self._streams: dict[str, EventStream] = {}  # of the requests that the engine has accepted
        self._outbox = Outbox()
        engine_loop.add(self)

    @property
    def is_alive(self) -> bool:
        return not self._error

    def submit(self, request: GenerateRequest, stream: EventStream) -> None:
        """Hand a request to the engine; events, or what rejects it, go to `stream`. Raises `NotReady`."""
        self._send(partial(self._submit, request, stream))

    def cancel(self, request_id: str, stream: EventStream) -> None:
        """The reader of `stream` has left: abort its request, and no other that bears the id."""
        self._send_if_alive(partial(self._cancel, request_id, stream))

    def abort(self, request_id: str) -> None:
        self._send_if_alive(partial(self._engine.abort, request_id))

    def abort_owner(self, owner_id: str) -> None:
        self._send_if_alive(partial(self._engine.abort_owner, owner_id))

    def abort_all(self) -> None:
        self._send_if_alive(self._abort_all)

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        self._send_if_alive(
            partial(self._engine.grant, request_id, granted_tokens=granted_tokens, is_final=is_final)
        )

    def stop(self) -> None:
        """Cancel what is in flight, free the engine's memory. Waits for the last step."""
        self.abort_all()
        with self._engine_loop.wake:
            self._is_stopping = True
            self._engine_loop.wake.notify()
        self._engine_loop.remove(self)
        self._engine.close()

    def is_due(self) -> bool:
        """Whether a turn has something to do now."""
        if self.has_ended.is_set():
            return False
        is_time = self.next_turn_at is not None and time.monotonic() >= self.next_turn_at
        return bool(self._commands) or self._can_step or self._is_stopping or is_time

    def turn(self) -> None:
        """Run the commands, compute a step, deliver its events. Called by the loop's thread alone."""
        if self._is_stopping and not self._commands:
            self._end()
            return
        try:
            self._take_turn()
        except BaseException as error:  # whatever it is, the requests in flight must hear of it
            self._die(error)

    def _send(self, command: Callable[[], None]) -> None:
        with self._engine_loop.wake:
            if self._error or self._is_stopping:
                raise NotReady(f"revision {self.card.revision} is not served here any more: {self._error}")
            self._commands.append(command)
            self._engine_loop.wake.notify()

    def _send_if_alive(self, command: Callable[[], None]) -> None:
        try:
            self._send(command)
        except NotReady:
            return  # what it would have changed has ended with the thread

    def _take_turn(self) -> None:
        is_woken = bool(self._commands)
        while self._commands:
            self._commands.popleft()()
        if self._engine.has_work:
            self._is_audited = False
            self.stats = self._engine.stats()  # so that a first, long step shows as work
            self._can_step = self._engine.step() and self._engine.has_work
        else:
            self._can_step = False
            if not (is_woken or self._is_audited):
                self._audit()
                self._is_audited = True
        self._flush()
        self.stats = self._engine.stats()
        seconds = self._idle_seconds(is_audited=self._is_audited)
        self.next_turn_at = None if seconds is None else time.monotonic() + seconds

    def _idle_seconds(self, *, is_audited: bool) -> float | None:
        """How long nothing needs to happen: until the next deadline, or the audit that follows work."""
        if not self._engine.has_work:
            return None if is_audited else IDLE_AUDIT_SECONDS
        deadline = self._engine.next_deadline()
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _audit(self) -> None:
        """A leak is ours to hear of, not the next client's to suffer from: serving goes on."""
        try:
            self._engine.check_integrity()
        except AssertionError as flaw:
            logger.critical("revision %s: the KV pool's books are wrong: %s", self.card.revision, flaw)

    def _submit(self, request: GenerateRequest, stream: EventStream) -> None:
        try:
            self._engine.submit(request, partial(self._post, request.request_id, stream))
        except RequestRejected as rejected:
            self._outbox.add(stream, rejected)
        except Exception as error:
            logger.error("request %s could not be queued", request.request_id, exc_info=error)
            self._outbox.add(stream, NotReady("the engine could not queue the request"))
        else:
            self._streams[request.request_id] = stream

    def _cancel(self, request_id: str, stream: EventStream) -> None:
        if self._streams.get(request_id) is stream:
            self._engine.abort(request_id)

    def _abort_all(self) -> None:
        for request_id in tuple(self._streams):
            self._engine.abort(request_id)

    def _post(self, request_id: str, stream: EventStream, event: Event) -> None:
        self._outbox.add(stream, event)
        if isinstance(event, Finish):
            self._streams.pop(request_id, None)

    def _flush(self) -> None:
        for closed in self._outbox.flush():
            for request_id in [key for key, stream in self._streams.items() if stream.loop is closed]:
                self._commands.append(partial(self._engine.abort, request_id))

    def _die(self, error: BaseException) -> None:
        logger.critical("the engine of revision %s died", self.card.revision, exc_info=error)
        failure = EngineError("engine_error", "the engine stopped while serving this", is_retryable=True)
        with self._engine_loop.wake:
            self._error = f"the engine died ({type(error).__name__})"
        self.stats = replace(self.stats, is_alive=False, error=self._error, num_running=0, num_waiting=0)
        try:
            while self._commands:
                self._commands.popleft()()
            self._engine.fail_all(failure)
        except Exception as flaw:
            logger.critical("revision %s: its state is broken as well", self.card.revision, exc_info=flaw)
        for request_id, stream in tuple(self._streams.items()):
            self._post(request_id, stream, Finish(FinishReason.FAILED, Usage(), error=failure))
        self._flush()
        self._end()

    def _end(self) -> None:
        self.next_turn_at = None
        self.has_ended.set()
