"""Where one revision's prompts wait for the process that prepares them: bounded, counted, never for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from inference.checkpoints.model_folder import UnsafeModel
from inference.prompt_process.process import Died, Overrun, PromptProcess, PromptSettings, too_costly
from inference.protocol.errors import NotReady, QueueFull, Refusal
from inference.protocol.requests import Prepared, PrepareRequest
from inference.protocol.stats import PromptStats
from inference.text.prompt import check_vocabulary, prepare_ids

logger = logging.getLogger(__name__)

MAX_WAITING = 4096  # prompts of one revision: what waits longer than WAIT_SECONDS is refused before
WAIT_SECONDS = 30.0  # before a prompt's turn: longer, and it is refused instead
MAX_IN_A_ROW = 3  # ends without a prompt prepared in between, before prompts are refused for a while
HOLD_SECONDS, MAX_HOLD_SECONDS = 5.0, 300.0  # that while, doubled each time


class PromptDesk:
    """One revision's process, and the thread that asks it. No other revision waits for either."""

    def __init__(self, revision: str, folder: Path, settings: PromptSettings) -> None:
        self._revision, self._folder, self._settings = revision, folder, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._process: PromptProcess | None = None
        self._lock = threading.Lock()  # of what follows
        self._waiting: dict[Future[Prepared], float] = {}  # those in work as well -> since when
        self._is_closed = False
        self._num_ended = 0
        self._num_in_a_row = 0
        self._held_until = 0.0
        self._reason = ""

    def open(self) -> str:
        """Start the process and try tokenizer and template; a note on the template.

        Raises `UnsafeModel`, which names the file at fault, or `NotReady`.
        """
        try:
            return self._thread.submit(self._open).result()
        except BaseException:
            self.close()
            raise

    async def prepare(self, request: PrepareRequest, *, vocab_size: int, max_model_len: int) -> Prepared:
        """Raises `Refusal`. Cancelled, it leaves the queue; what has begun goes on until its deadline."""
        if request.token_ids is not None and not request.wants_text:
            return prepare_ids(request.token_ids, vocab_size=vocab_size, max_model_len=max_model_len)
        check_vocabulary(request.token_ids or (), vocab_size=vocab_size)
        since = time.monotonic()
        with self._lock:
            self._check_open(since)
            if len(self._waiting) >= MAX_WAITING:
                raise QueueFull(f"{len(self._waiting)} prompts of this model wait to be tokenized already")
            work = self._thread.submit(self._prepare, request, since, vocab_size, max_model_len)
            self._waiting[work] = since
        work.add_done_callback(self._leave)
        return await asyncio.wrap_future(work)

    def stats(self) -> PromptStats:
        with self._lock:
            return PromptStats(
                num_waiting=len(self._waiting),
                oldest_since=min(self._waiting.values(), default=None),
                due_at=None if self._process is None else self._process.due_at,
                num_ended=self._num_ended,
                error=self._reason if self._num_in_a_row >= MAX_IN_A_ROW else "",
            )

    def close(self) -> None:
        """End the process. Prompts that wait are refused."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
        self._thread.shutdown(wait=True)
        if self._process is not None:
            self._process.end()
            self._process = None

    def _leave(self, work: Future[Prepared]) -> None:
        with self._lock:
            self._waiting.pop(work, None)

    def _check_open(self, now: float) -> None:
        if self._is_closed:
            raise NotReady(f"revision {self._revision} is being unloaded")
        if now < self._held_until:
            raise NotReady(
                f"prompts of revision {self._revision} cannot be prepared: {self._reason}",
                retry_after_seconds=self._held_until - now,
            )

    # What follows runs in the one thread.

    def _open(self) -> str:
        try:
            return self._started().try_all()
        except Died as error:
            raise NotReady(f"tokenizer and chat template could not be tried: {error}") from error

    def _prepare(
        self, request: PrepareRequest, since: float, vocab_size: int, max_model_len: int
    ) -> Prepared:
        now = time.monotonic()
        self._check_open(now)
        if now - since > WAIT_SECONDS:
            raise QueueFull(f"prompts of this model have waited {now - since:.0f} s to be tokenized")
        try:
            prepared = self._ask_twice(request, vocab_size, max_model_len)
        except Overrun as overrun:
            self._note_end(f"its chat template or tokenizer {overrun}")
            self._start_again_soon()
            raise too_costly(overrun, param="prompt" if request.messages is None else "messages") from overrun
        except Died as death:
            raise NotReady(f"the process that prepares prompts of this model died: {death}") from death
        except Refusal:
            self._note_well()
            raise
        self._note_well()
        return prepared

    def _ask_twice(self, request: PrepareRequest, vocab_size: int, max_model_len: int) -> Prepared:
        """Once more where the process died, which need not be this prompt's fault."""
        for is_last in (False, True):
            try:
                process = self._started_again()
                return process.prepare(request, vocab_size=vocab_size, max_model_len=max_model_len)
            except Died as death:
                self._note_end(f"the process that prepares prompts died: {death}")
                if is_last:
                    raise
                self._check_open(time.monotonic())
        raise AssertionError("the second try returns or raises")

    def _started_again(self) -> PromptProcess:
        """As it was tried when the revision was loaded: what goes wrong now is no fault of the prompt."""
        try:
            return self._started()
        except UnsafeModel as error:
            raise Died(error.message) from error

    def _started(self) -> PromptProcess:
        """The process, started where there is none. Raises `Died`."""
        if self._process is not None:
            return self._process
        process = PromptProcess(self._folder, self._settings)
        with self._lock:
            self._process = process
            if self._is_closed:  # `close` has not seen it
                process.kill()
        try:
            process.load()
        except Exception:
            self._process = None
            process.end()
            raise
        return process

    def _start_again_soon(self) -> None:
        """After an end, so that the next prompt need not wait for it."""
        with self._lock:
            if not self._is_closed:
                self._thread.submit(self._start_again)

    def _start_again(self) -> None:
        try:
            self._check_open(time.monotonic())
            self._started_again()
        except (Died, NotReady) as error:
            logger.warning("revision %s: prompts cannot be prepared: %s", self._revision, error)

    def _note_end(self, reason: str) -> None:
        with self._lock:
            self._process = None
            self._num_ended += 1
            self._num_in_a_row += 1
            self._reason = reason
            too_many = self._num_in_a_row - MAX_IN_A_ROW
            if too_many >= 0:
                self._held_until = time.monotonic() + min(HOLD_SECONDS * 2**too_many, MAX_HOLD_SECONDS)
        logger.warning("revision %s: %s", self._revision, reason)

    def _note_well(self) -> None:
        with self._lock:
            self._num_in_a_row, self._reason = 0, ""
