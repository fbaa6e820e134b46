"""The parent's side of a prompt process: started, asked with a deadline, ended when it overruns."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import inference
from inference.checkpoints.model_folder import UnsafeModel
from inference.prompt_process.pipe import Pipe, PipeClosed
from inference.protocol.errors import ContextLengthExceeded, InvalidValue, PromptTooCostly, RequestRejected
from inference.protocol.requests import TokenizedPrompt, TokenizeRequest

logger = logging.getLogger(__name__)

PACKAGES = Path(inference.__file__).parent.parent
START_SECONDS = 120.0  # for an interpreter and its imports, on a machine that is busy
LOAD_SECONDS = 60.0  # of processor time, for the largest vocabularies
CHARACTERS_PER_SECOND = 200_000  # beyond the seconds that every prompt has; 850,000 were measured
WALL_FACTOR, WALL_SECONDS = 3.0, 5.0  # what processor time may take on a machine that is busy
KEPT_LOG_BYTES = 1000
FOREIGN = {
    "tokenizer": (
        "transformers cannot read it; the files may be incomplete, damaged or of a form that it does not"
        " know. Take tokenizer.json from the model's repository; the server's log has the details"
    ),
    "chat_template": (
        "it fails on a plain conversation; compare it with the model's repository, or take it away:"
        " completions need none. The server's log has the details"
    ),
}
REJECTIONS = {kind.__name__: kind for kind in (InvalidValue, ContextLengthExceeded, PromptTooCostly)}


class Overrun(Exception):
    """It took more time or memory than it may, and was ended."""


class Died(Exception):
    """It ended by itself, or by others; the message says how."""


class Crashed(Died):
    """It ended by itself."""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How a revision's prompts are tokenized."""

    seconds: float = 5.0  # of processor time, for one prompt
    index: Path | None = None  # where it is kept what transformers has: a process starts twice as fast
    variables: Mapping[str, str] | None = None  # its environment, without secrets; None: this process's own


class PromptProcess:
    """Used by one thread at a time; `kill` may be called from any."""

    def __init__(self, folder: Path, settings: PromptSettings) -> None:
        self._folder, self._settings = folder, settings
        self.due_at: float | None = None  # time.monotonic(): when what it does is done, or is ended
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", "inference.prompt_process.worker"]
        if settings.index is not None:
            command += ["--index", str(settings.index)]
        self._child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            cwd=PACKAGES,
            env=settings.variables,
        )
        assert self._child.stdin is not None and self._child.stdout is not None
        self._pipe = Pipe(reads=self._child.stdout.fileno(), writes=self._child.stdin.fileno())

    @property
    def pid(self) -> int:
        return self._child.pid

    def load(self) -> None:
        """Wait until it runs, and have it read the tokenizer. Raises `UnsafeModel`, `Died`."""
        self.due_at = time.monotonic() + START_SECONDS
        try:
            self._pipe.receive(until=self.due_at)
        except (TimeoutError, PipeClosed) as error:
            last_words = self._last_words()
            self.end()
            raise Died(f"the process that prepares prompts does not start: {last_words}") from error
        self._try("tokenizer", "load", LOAD_SECONDS, folder=str(self._folder.absolute()))

    def try_all(self) -> str:
        """Tokenizer and chat template, tried; why the template is of no use, or "".

        Raises `UnsafeModel`, which names the file at fault, and `Died`.
        """
        seconds = self._settings.seconds
        self._try("tokenizer", "try_tokenizer", LOAD_SECONDS)
        note: str = self._try("chat_template", "try_chat_template", seconds)["note"]
        return note

    def tokenize(self, request: TokenizeRequest, *, vocab_size: int, max_model_len: int) -> TokenizedPrompt:
        """Raises `RequestRejected`, `Overrun`, `Died`."""
        messages = request.messages
        num_characters = len(request.text or "") + sum(len(message.content) for message in messages or ())
        said, ids = self._ask(
            {
                "do": "tokenize",
                "messages": None if messages is None else [asdict(message) for message in messages],
                "text": request.text,
                "has_ids": request.token_ids is not None,
                "vocab_size": vocab_size,
                "max_model_len": max_model_len,
                "num_characters": num_characters,
            },
            request.token_ids or (),
            seconds=self._settings.seconds + num_characters / CHARACTERS_PER_SECOND,
        )
        rejected = said.get("rejected")
        if rejected is not None:
            raise _rejection(rejected, param="messages" if messages is not None else "prompt")
        return TokenizedPrompt(
            token_ids=ids,
            max_output_tokens=said["max_output_tokens"],
            text=request.text if request.text is not None else said["text"],
        )

    def kill(self) -> None:
        self._child.kill()

    def end(self) -> int:
        """Kill it where it still runs, and wait; its exit code."""
        self._child.kill()
        code = self._child.wait()
        for file in (self._child.stdin, self._child.stdout, self._log):
            assert file is not None
            file.close()
        return code

    def _try(self, what: str, do: str, seconds: float, **more: str) -> dict[str, Any]:
        """One step of a trial. What goes wrong is the fault of the file `what`."""
        try:
            said, _ = self._ask({"do": do, **more}, seconds=seconds)
        except Overrun as error:
            raise UnsafeModel(f"{what}: trying it {error}, so it is not served") from error
        except Crashed as error:
            raise UnsafeModel(f"{what}: trying it ended the process ({error})") from error
        rejected = said.get("rejected")
        if rejected is not None:
            self.end()
            reason = rejected["message"]
            if rejected.get("is_foreign"):  # a library's words, for the log
                logger.error("%s of %s: %s", what, self._folder, reason)
                reason = FOREIGN[what]
            raise UnsafeModel(f"{what}: it cannot be used: {reason}")
        return said

    def _ask(
        self, said: dict[str, Any], ids: tuple[int, ...] = (), *, seconds: float
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        until = self.due_at = time.monotonic() + WALL_FACTOR * seconds + WALL_SECONDS
        try:
            self._pipe.send({**said, "seconds": seconds}, ids, until=until)
            answer = self._pipe.receive(until=until)
            self.due_at = None
            return answer
        except TimeoutError as error:
            self.end()
            raise Overrun(f"took longer than {seconds:.0f} s") from error
        except PipeClosed as error:
            code = self.end()
            if code == -signal.SIGXCPU:
                raise Overrun(f"took longer than {seconds:.0f} s") from error
            if code == -signal.SIGABRT:  # how the tokenizers' library ends where memory is refused
                raise Overrun("took more memory than it may") from error
            raise (Died if code == -signal.SIGKILL else Crashed)(_how(code)) from error

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, 2) - KEPT_LOG_BYTES))
        return self._log.read().decode(errors="replace").strip() or "it said nothing"


def _rejection(rejected: dict[str, Any], *, param: str) -> RequestRejected:
    kind, message = REJECTIONS[rejected["kind"]], str(rejected["message"])
    if rejected["param"] is None:  # what foreign code raised, or memory that it was refused
        message = f"the model's {_maker(param)} fails on this prompt: {message}"
    return kind(message, param=rejected["param"] or param)


def _maker(param: str) -> str:
    return "chat template or tokenizer" if param == "messages" else "tokenizer"


def too_costly(overrun: Overrun, *, param: str) -> PromptTooCostly:
    """What the asker of a prompt that overran is told."""
    return PromptTooCostly(
        f"the model's {_maker(param)} {overrun} on this prompt and was stopped", param=param
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
