"""A key's days as bars: places and heights of an SVG that the server draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from console.usage.by_key import Used

HEIGHT = 100.0
WIDTH = 10.0  # of a day, of which the bar takes 7


@dataclass(frozen=True, slots=True)
class Bar:
    """A day: its output tokens stand on its prompt tokens."""

    day: date
    used: Used
    x: float
    prompt_y: float
    prompt_height: float
    output_y: float
    output_height: float


@dataclass(frozen=True, slots=True)
class Bars:
    days: tuple[Bar, ...]
    most: int  # tokens of the fullest day

    @property
    def width(self) -> float:
        return WIDTH * len(self.days)


def bars(by_day: Mapping[date, Used]) -> Bars:
    most = max((used.tokens for used in by_day.values()), default=0)
    scale = HEIGHT / most if most else 0.0
    days = []
    for place, (day, used) in enumerate(by_day.items()):
        prompt, output = used.prompt_tokens * scale, used.completion_tokens * scale
        x = WIDTH * place + 1.5
        days.append(Bar(day, used, x, HEIGHT - prompt, prompt, max(0.0, HEIGHT - prompt - output), output))
    return Bars(tuple(days), most)
