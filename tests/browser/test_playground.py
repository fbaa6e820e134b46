"""The playground in a browser: chat, stop, parameters, code that runs, side by side, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.conftest import LANGUAGES, PATIENCE, Visit, Watched
from tests.flow.house import House, eventually

pytestmark = pytest.mark.server

TWIN = "stub-twin"
PHONE = {"width": 390, "height": 844}


class Playground:
    """The page as its visitor uses it, and every frame that it sends."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.page = watched, watched.page
        self.sent: list[dict[str, Any]] = []
        self.page.on("websocket", lambda one: one.on("framesent", self._note))
        watched.goto("/playground/")
        self.message = self.page.get_by_label("Message")
        self.stop = self.page.get_by_role("button", name="Stop")

    def _note(self, frame: str | bytes) -> None:
        self.sent.append(json.loads(frame))

    def say(self, text: str) -> None:
        self.message.fill(text)
        self.message.press("Enter")

    def ask(self, text: str) -> str:
        """Say it and wait for the end of the answer: its text, in the first pane."""
        num_answers = self.answers().count()
        self.say(text)
        expect(self.answers()).to_have_count(num_answers + 1)
        expect(self.stop).to_be_disabled()
        return self.answers().last.locator("[data-body]").inner_text().strip()

    def wait_until(self, check: Callable[[], bool]) -> None:
        """For what the browser tells us by events, which arrive only while we ask it something."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not check():
            assert time.monotonic() < deadline
            self.page.wait_for_timeout(20)

    def answers(self, pane: int = 0) -> Locator:
        return self.page.locator(".pane").nth(pane).locator(".message.assistant")

    def questions(self, pane: int = 0) -> Locator:
        return self.page.locator(".pane").nth(pane).locator(".message.user")

    def set(self, label: str, value: str) -> None:
        if label not in ("Temperature", "Top p", "Max tokens", "Seed", "System prompt"):
            self.page.locator("#parameters details").evaluate("one => { one.open = true; }")
        self.page.get_by_label(label, exact=label != "Temperature" and label != "Top p").fill(value)

    def code(self, tongue: str) -> str:
        self.page.get_by_role("button", name=tongue).click()
        return self.page.locator("#code-text").inner_text()


@pytest.fixture
def playground(visit: Visit) -> Playground:
    return Playground(visit("operator"))


@pytest.fixture
def twin(house: House) -> Iterator[str]:
    """A second name that is served, by the same revision."""
    house.ask("serve_also", TWIN, "stub-1")
    yield TWIN
    house.ask("serve_no_longer", TWIN)


def test_an_answer_streams_and_tells_its_figures_and_its_request(playground: Playground) -> None:
    playground.set("Max tokens", "20")
    answer = playground.ask("hello")
    assert len(answer.split()) == 20
    last = playground.answers().last
    for figure in ("TTFT", "Speed", "tokens/s", "In", "Cached", "Out"):
        expect(last.locator("[data-meter]")).to_contain_text(figure)
    expect(last.locator("[data-out]")).to_have_text("20")
    expect(playground.page.locator("[data-announce]")).to_contain_text(answer)
    playground.page.goto(playground.watched.url + "/")
    owner = playground.page.get_by_label("Recent requests").locator("tbody tr").first
    expect(owner).to_contain_text("operator")
    playground.watched.goto("/playground/")
    expect(playground.answers().last).to_contain_text(answer)  # what was said is kept in the tab
    last.get_by_role("link", name="Request and timings").click()
    playground.page.wait_for_url("**/requests/chatcmpl-*/")
    expect(playground.page.locator("main")).to_contain_text("stub-1")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stopping_keeps_what_came_and_frees_the_engine(
    playground: Playground, house: House, way: str
) -> None:
    playground.say("slow hello")
    text = playground.answers().last.locator("[data-body]")
    expect(text).to_contain_text("w")
    expect(playground.answers().last).to_have_attribute("aria-busy", "true")
    playground.stop.click() if way == "button" else playground.page.keyboard.press("Escape")
    expect(playground.answers().last).to_contain_text("Stopped.")
    assert 1 <= len(text.inner_text().split()) < 200
    eventually(lambda: house.num_running() == 0)
    playground.set("Max tokens", "4")
    playground.ask("go on")
    assert [one["role"] for one in playground.sent[-1]["messages"]] == ["user", "assistant", "user"]


def test_every_parameter_is_sent_and_takes_effect(playground: Playground) -> None:
    playground.set("Max tokens", "12")
    playground.set("Seed", "7")
    first = playground.ask("hello")
    playground.page.get_by_role("button", name="Clear the conversation").click()
    assert playground.ask("hello") == first  # the same seed
    assert playground.sent[-1] | {"stream_id": ""} == {
        "type": "response.create",
        "stream_id": "",
        "model": "stub",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.7,
        "top_p": 1,
        "max_tokens": 12,
        "seed": 7,
    }
    values = {"Top k": 40, "Min p": 0.05, "Presence penalty": 0.5, "Frequency penalty": -0.5}
    values |= {"Repetition penalty": 1.1, "Min tokens": 2, "Temperature": 1.25, "Top p": 0.9, "Seed": 8}
    for label, value in values.items():
        playground.set(label, str(value))
    stop = first.split()[4]
    playground.set("Stop texts", f"{stop}\nEND")
    playground.set("System prompt", "Be brief.")
    playground.page.get_by_label("Go on past the end-of-text token").check()
    assert playground.ask("again") != first
    sent = playground.sent[-1]
    for label, value in values.items():
        assert sent[label.lower().replace(" ", "_")] == value, label
    assert sent["stop"] == [stop, "END"] and sent["ignore_eos"] is True
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    playground.page.get_by_role("button", name="Reset").click()
    playground.set("Seed", "7")
    playground.set("Stop texts", stop)
    playground.page.get_by_role("button", name="Clear the conversation").click()
    assert playground.ask("hello").split() == first.split()[:4]


def test_a_parameter_that_cannot_be_is_shown_and_nothing_is_sent(playground: Playground) -> None:
    playground.set("Min p", "3")
    playground.say("hello")
    assert playground.page.evaluate("document.activeElement.id") == "p-min-p"
    assert playground.sent == [] and playground.answers().count() == 0


AWKWARD = "it's \"quoted\" $HOME `id` \\n 100% <b> 漢字 😀\nJSON\n'JSON'\n{}"


@pytest.mark.parametrize("tongue", ["curl", "Python"])
def test_the_code_shown_runs_verbatim_and_gets_the_same_answer(
    playground: Playground, house: House, tongue: str
) -> None:
    playground.set("Seed", "7")
    playground.set("Max tokens", "9")
    playground.set("Top k", "5")
    playground.set("Stop texts", "'never'\nEND")
    playground.set("System prompt", AWKWARD)
    answer = playground.ask(AWKWARD)
    playground.answers().last.get_by_role("button", name="View code").click()
    code = playground.code(tongue)
    command = ["bash", "-e", "-c", code] if tongue == "curl" else [sys.executable, "-c", code]
    environment = {**os.environ, "PILOTHOUSE_KEY": house.key}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)["choices"][0]["message"]["content"] if tongue == "curl" else ran.stdout
    assert said.strip() == answer and len(answer.split()) == 9


def test_the_composer_shows_as_code_what_it_would_send(playground: Playground) -> None:
    playground.message.fill("not sent yet")
    playground.page.get_by_role("button", name="View code").click()
    assert '"content": "not sent yet"' in playground.code("curl")
    assert '"not sent yet"' in playground.code("Python") and playground.sent == []
    assert playground.watched.axe() == []


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        ("refuse", "The queue is full. Retry in 2 s.", "engine_overloaded"),
        ("fail-after-3", "The engine failed at this request", "engine_error"),
        ("x" * 5000, "longer than the model's context", "context_length_exceeded"),
    ],
)
def test_what_goes_wrong_is_said_and_can_be_tried_again(
    playground: Playground, words: str, says: str, code: str
) -> None:
    playground.say(words)
    alert = playground.answers().last.get_by_role("alert")
    expect(alert).to_contain_text(says)
    expect(alert).to_contain_text(code)
    assert playground.watched.axe() == []
    num_sent = len(playground.sent)
    alert.get_by_role("button", name="Try again").click()
    playground.wait_until(lambda: len(playground.sent) == num_sent + 1)
    expect(playground.answers()).to_have_count(1)
    expect(alert).to_contain_text(says)
    playground.questions().last.hover()
    playground.questions().last.get_by_role("button", name="Edit").click()
    playground.page.get_by_role("textbox", name="Edit").fill("hello")
    playground.page.get_by_role("button", name="Send again").click()
    expect(playground.answers().last.locator("[data-out]")).not_to_be_empty()
    playground.wait_until(lambda: len(playground.sent) == num_sent + 2)
    assert [one["content"] for one in playground.sent[-1]["messages"]] == ["hello"]


def test_a_model_that_is_not_loaded_says_so(visit: Visit, house: House) -> None:
    house.ask("serve_also", "absent", "absent-1", {"error": "it is broken"})
    try:
        playground = Playground(visit("operator"))
        playground.page.get_by_label("Model").select_option("absent")
        playground.say("hello")
        alert = playground.answers().last.get_by_role("alert")
        expect(alert).to_contain_text("The engine is not ready: the model may still be loading.")
    finally:
        house.ask("serve_no_longer", "absent")


def test_a_lost_socket_is_told_and_comes_back_by_itself(visit: Visit) -> None:
    watched = visit("operator")
    routes: list[WebSocketRoute] = []

    def through(route: WebSocketRoute) -> None:
        routes.append(route)
        route.connect_to_server()

    watched.page.route_web_socket("**/v1/responses", through)
    playground = Playground(watched)
    playground.say("slow hello")
    expect(playground.answers().last.locator("[data-body]")).to_contain_text("w")
    routes[-1].close(code=4999)
    alert = playground.answers().last.get_by_role("alert")
    expect(alert).to_contain_text("The connection was lost while the answer came.")
    connection = watched.page.locator("[data-connection]")
    playground.wait_until(lambda: len(routes) == 2)
    expect(connection).to_contain_text("Connected")
    routes[-1].close(code=1000)  # it idled: no haste
    expect(connection).to_contain_text("Connects when you send")
    playground.set("Max tokens", "4")
    playground.ask("hello")
    assert len(routes) == 3


def sign_in_anew(visit: Visit, people: dict[str, str]) -> Playground:
    """With a session of its own, which a test may end."""
    watched = visit()
    watched.goto("/account/sign-in/?next=/playground/")
    watched.page.get_by_label("Name").fill("operator")
    watched.page.get_by_label("Password").fill(people["operator"])
    watched.page.get_by_role("button", name="Sign in").click()
    watched.page.wait_for_url("**/playground/")
    playground = Playground(watched)
    playground.set("Max tokens", "4")
    playground.ask("a secret")
    return playground


def test_a_session_that_ended_elsewhere_leads_to_sign_in(
    visit: Visit, people: dict[str, str], house: House
) -> None:
    playground = sign_in_anew(visit, people)
    (session,) = [one for one in playground.page.context.cookies() if one["name"] == "pilothouse"]
    house.ask("end_session", f"pilothouse={session['value']}")
    playground.say("hello")
    alert = playground.answers().last.get_by_role("alert")
    expect(alert).to_contain_text("Your session has ended: sign in again.")
    dialog = playground.page.locator("#sign-in-again")  # in place: what was typed stays
    expect(dialog).to_be_visible()
    expect(dialog.locator("input[type=password]")).to_be_visible()


def test_what_was_said_is_forgotten_with_the_sign_out(visit: Visit, people: dict[str, str]) -> None:
    page = sign_in_anew(visit, people).page
    assert "a secret" in page.evaluate("sessionStorage.playground")
    page.locator(".account > summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/account/sign-in/")
    assert page.evaluate("sessionStorage.length") == 0


def test_history_can_be_edited_answered_anew_and_cleared(playground: Playground) -> None:
    playground.set("Max tokens", "6")
    for words in ("one", "two"):
        playground.ask(words)
    first, second = playground.answers().nth(0), playground.answers().nth(1)
    first.get_by_role("button", name="Edit").click()
    playground.page.get_by_role("textbox", name="Edit").fill("my **own** answer")
    playground.page.get_by_role("button", name="Keep the change").click()
    expect(first.locator("strong")).to_have_text("own")
    second.get_by_role("button", name="Answer anew").click()
    expect(playground.stop).to_be_disabled()
    assert [one["content"] for one in playground.sent[-1]["messages"]] == ["one", "my **own** answer", "two"]
    playground.questions().nth(0).hover()
    playground.questions().nth(0).get_by_role("button", name="Edit").click()
    editor = playground.page.get_by_role("textbox", name="Edit")
    editor.press("Escape")
    expect(editor).to_have_count(0)
    first.get_by_role("button", name="Answer anew").click()
    expect(playground.answers()).to_have_count(1)
    expect(playground.stop).to_be_disabled()
    assert [one["content"] for one in playground.sent[-1]["messages"]] == ["one"]
    playground.page.get_by_role("button", name="Clear the conversation").click()
    assert playground.page.locator(".message").count() == 0
    expect(playground.page.get_by_text("Begin a conversation")).to_be_visible()


def test_enter_sends_and_shift_enter_begins_a_line(playground: Playground) -> None:
    playground.message.press_sequentially("first")
    playground.message.press("Shift+Enter")
    playground.message.press_sequentially("second")
    assert playground.sent == []
    playground.message.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert playground.sent == []  # Enter belongs to the input method
    playground.message.press("Enter")
    expect(playground.questions().last).to_contain_text("first\nsecond")
    assert playground.message.input_value() == ""


def test_two_models_answer_side_by_side_to_one_message(visit: Visit, twin: str) -> None:
    playground = Playground(visit("operator"))
    playground.page.get_by_role("button", name="Add a pane").click()
    expect(playground.page.get_by_role("button", name="Send to 2")).to_be_visible()
    playground.say("slow hello")
    for pane in (0, 1):
        expect(playground.answers(pane).last.locator("[data-body]")).to_contain_text("w")
    assert [one["model"] for one in playground.sent] == ["stub", twin]
    assert len({one["stream_id"] for one in playground.sent}) == 2
    assert playground.watched.axe() == []
    playground.stop.click()
    for pane in (0, 1):
        expect(playground.answers(pane).last).to_contain_text("Stopped.")
    playground.page.get_by_role("button", name="Close this pane").last.click()
    expect(playground.page.locator(".pane")).to_have_count(1)


def test_token_probabilities_are_shown_on_hover_and_by_keyboard(playground: Playground) -> None:
    playground.page.get_by_role("checkbox", name="Token probabilities").check()
    playground.set("Max tokens", "8")
    answer = playground.ask("hello").split()
    tokens = playground.answers().last.locator(".tokens span")
    expect(tokens).to_have_count(8)
    tokens.nth(2).hover()
    odds = playground.page.get_by_role("tooltip")
    expect(odds.locator("div")).to_have_count(5)
    expect(odds).to_contain_text(answer[2])
    expect(odds).to_contain_text("36.8%")
    playground.message.hover()
    expect(odds).to_be_hidden()
    playground.answers().last.locator(".tokens").focus()
    for _ in range(2):
        playground.page.keyboard.press("ArrowRight")
    expect(odds).to_contain_text(answer[1])
    assert playground.watched.axe() == []
    button = playground.answers().last.get_by_role("button", name="Token probabilities")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(tokens).to_have_count(0)


def test_a_viewer_is_told_that_they_may_not_chat(visit: Visit) -> None:
    watched = visit("viewer")
    watched.goto("/playground/")
    expect(watched.page.get_by_role("heading", name="Your role may not chat")).to_be_visible()
    assert watched.page.locator("#message").count() == 0


def test_nobody_chats_by_a_viewers_session_alone(house: House, cookies: dict[str, Any]) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    jar = "; ".join(f"{one['name']}={one['value']}" for one in cookies["viewer"])
    origin: Any = house.url
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(
            house.url.replace("http", "ws") + "/v1/responses",
            additional_headers={"cookie": jar},
            origin=origin,
        ),
    ):
        pass
    assert refused.value.response.status_code == 403


GAPS = """() => {
  const at = [];
  new MutationObserver(() => at.push(performance.now())).observe(
    document.querySelector("[data-panes]"), {subtree: true, childList: true, characterData: true});
  window.gaps = () => at.slice(1).map((one, place) => one - at[place]);
}"""


def test_a_stream_stays_smooth_while_other_pages_load(
    playground: Playground, house: House, cookies: dict[str, Any]
) -> None:
    playground.set("Max tokens", "80")
    jar = {one["name"]: one["value"] for one in cookies["admin"]}

    def load(path: str) -> int:
        return httpx.get(house.url + path, cookies=jar).status_code

    playground.page.evaluate(GAPS)
    playground.say("slow hello")  # 80 tokens in 4 seconds
    expect(playground.answers().last.locator("[data-body]")).to_contain_text("w")
    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(load, ["/", "/operators/", "/home/figures", "/requests/", "/keys/"] * 3))
    expect(playground.stop).to_be_disabled()
    assert statuses == [200] * 15
    gaps = playground.page.evaluate("gaps()")
    assert len(gaps) >= 20
    assert sorted(gaps)[-3] < 1000, sorted(gaps)[-5:]  # a busy machine may hold up everything once or twice


PAYLOADS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1>",
    "<svg><animate onbegin=window.hacked=1 attributeName=x></svg>",
    "<iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "<a href='javascript:window.hacked=1' id=bait>click</a>",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt&#58;window.hacked=1)",
    "[click](data:text/html;base64,PHNjcmlwdD5wYXJlbnQuaGFja2VkPTE8L3NjcmlwdD4=)",
    "![x](x \"' onerror='window.hacked=1\")",
    "![pixel](https://evil.example/?chat)",
    "<javascript:window.hacked=1>",
    "<math><mtext><table><mglyph><style><!--</style><img src=x onerror=window.hacked=1>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=window.hacked=1>",
    "<div x-data x-init='window.hacked = 1' x-html='1'></div>",
    "<div hx-get='/account/sign-out/' hx-trigger=load></div>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<base href='https://evil.example/'><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<input autofocus onfocus=window.hacked=1><details open ontoggle=window.hacked=1>",
    "<object data='javascript:window.hacked=1'></object><embed src='javascript:window.hacked=1'>",
)
WRAPS = (
    "{}",
    "# {}",
    "- {}",
    "> {}",
    "**{}**",
    "`{}`",
    "```\n{}\n```",
    "```{}\nx\n```",
    "| {} |\n|-|\n| {} |",
    "[{}](x)",
)
TURNS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda text: text.replace("<", "<\n"),
    lambda text: text.replace(" ", "/"),
    lambda text: f"{text}\n\n{text}",
    lambda text: f"<b>{text}",
)
ALLOWED = {
    "A",
    "BLOCKQUOTE",
    "BR",
    "CODE",
    "DEL",
    "EM",
    "H4",
    "H5",
    "H6",
    "HR",
    "LI",
    "OL",
    "P",
    "PRE",
    "STRONG",
}
ALLOWED |= {"TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL"}
LOOK = """() => ({
  hacked: window.hacked ?? null,
  names: [...new Set([...document.querySelectorAll("#stage *, .message .body *")].map(one => one.tagName))],
  attributes: [...document.querySelectorAll("#stage *")].flatMap(one => one.getAttributeNames()),
  links: [...document.querySelectorAll("#stage a, .message .body a")].map(one => one.href),
})"""
RENDER = """async (texts) => {
  const {rendered} = await import(document.querySelector("script[src*='built/playground']").src);
  const stage = document.createElement("div");
  stage.id = "stage";
  document.querySelector("main").append(stage);
  for (const text of texts) stage.append(rendered(text));
  for (const link of stage.querySelectorAll("a")) {
    link.addEventListener("click", (event) => event.preventDefault());
    link.click();
  }
}"""


def is_harmless(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(LOOK)
    assert found["hacked"] is None
    assert set(found["names"]) <= ALLOWED, set(found["names"]) - ALLOWED
    assert all(link.startswith(("http:", "https:", "mailto:")) for link in found["links"]), found["links"]
    return found


def test_a_thousand_hostile_texts_run_nothing_when_shown(playground: Playground) -> None:
    texts = [wrap.replace("{}", turn(one)) for one in PAYLOADS for wrap in WRAPS for turn in TURNS]
    assert len(set(texts)) >= 1000
    playground.page.evaluate(RENDER, texts)
    playground.page.wait_for_timeout(300)
    found = is_harmless(playground.page)
    assert set(found["attributes"]) <= {"href", "rel", "target", "tabindex", "start"}


def test_hostile_answers_and_prompts_are_text_while_they_stream_and_afterwards(
    playground: Playground,
) -> None:
    expected = "\n\n".join(PAYLOADS)
    playground.ask(f"echo {expected}")
    is_harmless(playground.page)
    assert PAYLOADS[0] in playground.answers().last.locator("[data-body]").inner_text()
    assert PAYLOADS[0] in playground.questions().last.inner_text()
    playground.page.get_by_role("checkbox", name="Token probabilities").check()
    playground.answers().last.get_by_role("button", name="Answer anew").click()
    expect(playground.answers().last.locator(".tokens")).to_be_visible()
    assert playground.page.evaluate("window.hacked ?? null") is None
    playground.page.reload()
    expect(playground.answers().last).to_contain_text(PAYLOADS[0])
    is_harmless(playground.page)


@pytest.mark.parametrize("language", LANGUAGES)
def test_on_a_phone_a_conversation_fits_and_parameters_open(visit: Visit, language: str) -> None:
    watched = visit("operator", language=language, theme="night")
    watched.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    watched.goto("/playground/")
    watched.page.locator("#message").fill("echo | a | b |\n|-|-|\n| wide | " + "cell " * 30 + "|")
    watched.page.locator("[data-send]").click()
    expect(watched.page.locator(".message.assistant table")).to_be_visible()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert watched.axe() == []
    watched.page.locator("[data-settings]").click()
    expect(watched.page.locator("#p-seed")).to_be_visible()
