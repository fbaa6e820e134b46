"""The process that prepares prompts: what it sees, what it outlives, and that it ends with its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from inference.checkpoints.model_folder import UnsafeModel
from inference.prompt_process.pipe import Pipe
from inference.prompt_process.process import Died, PromptProcess, PromptSettings
from inference.prompt_process.queue import PromptQueue
from inference.protocol.errors import ContextLengthExceeded, InvalidValue, NotReady
from inference.protocol.requests import ChatMessage, TokenizedPrompt, TokenizeRequest
from inference.text.prompt import tokenize
from tests.inference import tiny
from tests.inference.prompt_process.conftest import PLAIN, Open, Write, ask, complete
from tests.inference.prompt_process.test_hostile import LOOPS, WHEN, process_of


async def test_it_prepares_as_the_tokenizer_in_this_process_does(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("honest"))
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = PLAIN

    class Facts:
        pass

    facts = Facts()
    facts.tokenizer, facts.vocab_size, facts.max_model_len = tokenizer, 300, 4096  # type: ignore[attr-defined]
    talk = (ChatMessage("system", "😀 <end>"), ChatMessage("user", "a\nb\0", name="bo"))
    for request in (
        TokenizeRequest("", messages=talk),
        TokenizeRequest("", text="Grüße <begin>, 你好 " * 100),
        TokenizeRequest("", token_ids=(1, 2, 200)),
    ):
        theirs: TokenizedPrompt = tokenize(facts, request)  # type: ignore[arg-type]
        assert await queue.tokenize(request, vocab_size=300, max_model_len=4096) == theirs


async def test_ids_that_nobody_wants_as_text_ask_no_process(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("honest"))
    process = process_of(queue)
    os.kill(process, signal.SIGSTOP)  # whatever it were asked, it would not answer
    sizes = {"vocab_size": 300, "max_model_len": 40}
    try:
        prepared = await queue.tokenize(TokenizeRequest("", token_ids=(1, 2, 200), wants_text=False), **sizes)
        for ids, kind in (((), InvalidValue), ((300,), InvalidValue), ((1,) * 40, ContextLengthExceeded)):
            with pytest.raises(kind):
                await queue.tokenize(TokenizeRequest("", token_ids=ids, wants_text=False), **sizes)
    finally:
        os.kill(process, signal.SIGCONT)
    assert prepared == TokenizedPrompt(token_ids=(1, 2, 200), max_output_tokens=37)


def test_a_message_is_read_at_once_and_never_before_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the system lets go of the interpreter's lock, and the answer waits for it to come back."""
    (theirs, writes), (reads, ours) = os.pipe(), os.pipe()
    asker, answerer = Pipe(reads=reads, writes=writes), Pipe(reads=theirs, writes=ours)
    calls: list[int] = []
    read = os.read

    def counted(descriptor: int, num_bytes: int) -> bytes:
        calls.append(descriptor)
        return read(descriptor, num_bytes)

    monkeypatch.setattr(os, "read", counted)
    answerer.send({"text": "a" * 3000}, range(500))
    answerer.send({}, (7,))
    assert asker.receive() == ({"text": "a" * 3000}, tuple(range(500)))
    assert asker.receive() == ({}, (7,))
    assert calls == [reads]
    with pytest.raises(TimeoutError):
        asker.receive(until=time.monotonic())
    assert calls == [reads]
    for descriptor in (theirs, writes, reads, ours):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (TokenizeRequest("", messages=()), InvalidValue, "messages is empty"),
        (TokenizeRequest("", text="x" * 40), ContextLengthExceeded, "40 tokens"),
        (TokenizeRequest("", token_ids=(5, 2**70)), InvalidValue, "not in the vocabulary of 300"),
        (TokenizeRequest("", token_ids=(-1,)), InvalidValue, "token id -1"),
    ],
)
async def test_refusals_keep_kind_words_and_field(
    write: Write, open_queue: Open, request_: TokenizeRequest, kind: type, words: str
) -> None:
    queue = open_queue(write("honest"))
    with pytest.raises(
        InvalidValue if kind is InvalidValue else ContextLengthExceeded, match=words
    ) as rejected:
        await queue.tokenize(request_, vocab_size=300, max_model_len=40)
    assert type(rejected.value) is kind
    assert rejected.value.param == ("messages" if request_.messages is not None else "prompt")


async def test_one_that_was_killed_is_started_again_for_the_same_prompt(
    write: Write, open_queue: Open, caplog: pytest.LogCaptureFixture
) -> None:
    queue = open_queue(write("honest"))
    before = process_of(queue)
    os.kill(before, signal.SIGKILL)  # as the kernel does where memory is short
    assert (await complete(queue, "hello")).text == "hello"
    assert process_of(queue) != before and queue.stats().num_ended == 1
    assert "SIGKILL" in caplog.text and "hello" not in caplog.text


async def test_one_that_dies_each_time_is_tried_twice_for_a_prompt(
    write: Write, open_queue: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(write("honest"))
    load = PromptProcess.load

    def load_and_die(process: PromptProcess) -> None:
        load(process)
        os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(PromptProcess, "load", load_and_die)
    os.kill(process_of(queue), signal.SIGKILL)
    with pytest.raises(NotReady, match="died: signal SIGKILL"):
        await complete(queue, "hello")
    assert queue.stats().num_ended == 2


def test_a_tokenizer_that_crashes_is_refused_and_one_whose_process_others_killed_is_not(write: Write) -> None:
    for sign, kind in ((signal.SIGSEGV, UnsafeModel), (signal.SIGKILL, Died)):
        process = PromptProcess(write(sign.name), PromptSettings())
        process.load()
        os.kill(process.pid, sign)
        with pytest.raises(kind, match=sign.name):
            process.try_all()


async def test_closing_ends_it_at_once_whatever_it_does(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}"))
    process = psutil.Process(process_of(queue))
    held = [asyncio.ensure_future(ask(queue, "now")) for _ in range(3)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(queue.close)
    assert not process.is_running()
    for one in held:
        with pytest.raises(NotReady):
            await one
    with pytest.raises(NotReady, match="unloaded"):
        await complete(queue, "hello")


def test_it_sees_no_secret_loads_no_torch_and_outlives_a_stop_of_the_server(
    write: Write, tmp_path: Path
) -> None:
    settings = PromptSettings(variables={"SAYS": "this alone"})
    process = PromptProcess(write("honest"), settings)
    process.load()
    process.try_all()
    seen = psutil.Process(process.pid)
    assert {name for name in seen.environ() if name.isupper() and not name.startswith("LC_")} == {"SAYS"}
    assert not [one.path for one in seen.memory_maps() if "torch" in one.path]
    for sign in (signal.SIGTERM, signal.SIGINT):  # service managers tell the whole group
        os.kill(process.pid, sign)
    request = TokenizeRequest("", text="hello")
    assert process.tokenize(request, vocab_size=300, max_model_len=40).text == "hello"
    process.end()
    assert not seen.is_running()


@pytest.mark.parametrize("is_busy", [False, True])
def test_it_ends_with_a_server_that_was_killed(write: Write, is_busy: bool) -> None:
    folder = write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}")
    program = (
        "import sys, pathlib\n"
        "from inference.prompt_process.process import PromptProcess, PromptSettings\n"
        "from inference.protocol.requests import ChatMessage, TokenizeRequest\n"
        "process = PromptProcess(pathlib.Path(sys.argv[1]), PromptSettings(seconds=1))\n"
        "process.load()\n"
        "print(process.pid, flush=True)\n"
        "request = TokenizeRequest('', messages=(ChatMessage('user', sys.argv[2]),))\n"
        "process.tokenize(request, vocab_size=300, max_model_len=40)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), "now" if is_busy else "hello"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    process.wait(60)


def test_what_cannot_be_loaded_is_refused_by_name(
    tmp_path: Path, open_queue: Callable[..., PromptQueue]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(Exception, match=r"^tokenizer: it cannot be used: transformers cannot read it"):
        open_queue(tmp_path / "broken")


async def test_as_many_prompts_as_connections_may_come_at_once(write: Write, open_queue: Open) -> None:
    """All of a burst are tokenized: none is refused for coming beside others."""
    queue = open_queue(write("honest"))
    tokenized = await asyncio.gather(*[complete(queue, f"hello {number}") for number in range(1024)])
    assert all(one.token_ids for one in tokenized) and len({one.token_ids for one in tokenized}) == 1024
