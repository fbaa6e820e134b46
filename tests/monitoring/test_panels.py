"""One definition, two backends: PromQL as it is written, and the same arithmetic on our own samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

import pytest

from monitoring.grafana.__main__ import FOLDER, texts
from monitoring.grafana.addresses import PLACES, uid
from monitoring.panels.drawing import RANGES, Wanted, draw_own, drawn
from monitoring.panels.evaluate import Lines, Track, evaluate, quantile
from monitoring.panels.listing import GROUPS, PANELS, SAMPLE_NAMES, alone, of
from monitoring.panels.query import Gauge, Quantile, Query, Rate, Ratio, Selector, of_model, quoted, split
from monitoring.panels.recorder import Recorder

HITS = Selector("hits_total")


class Told:
    """Samples that a test tells."""

    def __init__(self, *tracks: tuple[str, Track]) -> None:
        self._tracks = tracks

    def tracks(self, name: str) -> Iterable[Track]:
        return [track for told, track in self._tracks if told == name]


def counter(values: list[float], *, every: float = 5.0, **labels: str) -> tuple[str, Track]:
    return "hits_total", Track(labels, [index * every for index in range(len(values))], values)


def answer(query: Query, *tracks: tuple[str, Track], at: float, window: float = 20, model: str = "") -> Lines:
    return evaluate(query, Told(*tracks), at=[at], window=window, model=model)


def test_queries_are_written_as_promql() -> None:
    window = {"window": "1m"}
    assert Rate(HITS).promql(**window) == "sum (rate(hits_total[1m]))"
    assert Rate(HITS, by=("a", "b"), per=60).promql(**window) == "60 * sum by (a, b) (rate(hits_total[1m]))"
    assert Gauge(HITS, how="max").promql(**window, model='model="m"') == 'max (hits_total{model="m"})'
    assert (
        Quantile(0.95, Selector("t"), by=("revision",)).promql(**window)
        == "histogram_quantile(0.95, sum by (le, revision) (rate(t_bucket[1m])))"
    )
    assert Ratio(Rate(HITS), Rate(Selector("all"))).promql(**window) == (
        "(sum (rate(hits_total[1m])) or 0 * sum (rate(all[1m]))) / sum (rate(all[1m]))"
    )


def test_a_model_filters_only_series_that_have_one_and_cannot_leave_its_quotes() -> None:
    assert "model" not in Rate(alone("refusals_total")).promql(window="1m", model=of_model("m"))
    hostile = 'm"} or vector(1) #\n\\'
    assert quoted(hostile) == r'"m\"} or vector(1) #\n\\"'
    assert json.loads(quoted(hostile)) == hostile


def test_a_rate_of_steady_growth_is_exact() -> None:
    growing = counter([index * 10.0 for index in range(20)])
    assert answer(Rate(HITS), growing, at=90)[()][0] == pytest.approx(2.0)
    assert answer(Rate(HITS, per=60), growing, at=90)[()][0] == pytest.approx(120.0)


def test_a_counter_that_began_anew_counts_what_it_had_before() -> None:
    fallen = counter([0, 10, 20, 30, 0, 10, 20, 30, 40])
    (value,) = answer(Rate(HITS), fallen, at=25, window=20)[()]
    assert value == pytest.approx((30 - 10 + 0 + 10) / 20)


def test_one_sample_or_none_tells_no_rate() -> None:
    assert answer(Rate(HITS), counter([1]), at=0)[()] == [None]
    assert answer(Rate(HITS), at=0) == {}


def test_lines_are_summed_by_their_labels_and_left_out_by_model() -> None:
    tracks = [
        counter([0, 5, 10], model="m", revision="r1"),
        counter([0, 10, 20], model="m", revision="r2"),
        counter([0, 50, 100], model="other", revision="r3"),
    ]
    by_model = answer(Rate(HITS, by=("model",)), *tracks, at=10, window=10)
    assert {key: value for key, (value,) in by_model.items()} == {("m",): 3.0, ("other",): 10.0}
    assert answer(Rate(HITS), *tracks, at=10, window=10, model="m") == {(): [3.0]}
    assert set(answer(split(Rate(HITS), "revision"), *tracks, at=10, model="m")) == {("r1",), ("r2",)}


def test_a_gauge_stands_until_its_series_is_gone_or_old() -> None:
    gauge = Gauge(HITS)
    assert answer(gauge, counter([3.0]), at=60) == {(): [3.0]}
    assert answer(gauge, counter([3.0]), at=301) == {(): [None]}
    gone = ("hits_total", Track({}, [0.0], [3.0], gone_at=5.0))
    assert answer(gauge, gone, at=4) == {(): [3.0]}
    assert answer(gauge, gone, at=6) == {(): [None]}


def test_gauges_are_put_together_as_they_ask() -> None:
    tracks = [counter([2.0], revision="a"), counter([5.0], revision="b")]
    told = {how: answer(Gauge(HITS, how=how), *tracks, at=0)[()] for how in ("sum", "max", "min")}
    assert told == {"sum": [7.0], "max": [5.0], "min": [2.0]}


def test_a_part_that_is_absent_is_nought_and_an_absent_whole_says_nothing() -> None:
    ratio = Ratio(Rate(HITS), Rate(Selector("all")))
    whole = ("all", Track({}, [0, 5, 10], [0, 4, 8]))
    assert answer(ratio, whole, at=10) == {(): [0.0]}
    assert answer(ratio, whole, counter([0, 1, 2]), at=10) == {(): [0.25]}
    idle = ("all", Track({}, [0, 5, 10], [8, 8, 8]))
    assert answer(ratio, idle, at=10) == {(): [None]}


def test_a_ratio_needs_the_same_labels_on_both_sides() -> None:
    with pytest.raises(ValueError, match="same labels"):
        Ratio(Rate(HITS, by=("a",)), Rate(HITS))


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, [0, 10, 10, 10], 1.5),  # in the middle of the second bucket
        (0.95, [10, 10, 10, 10], 0.95),  # the first bucket begins at 0
        (0.99, [0, 0, 0, 10], 4.0),  # above every bound: the highest that is known
        (0.5, [0, 0, 0, 0], None),  # nothing was observed
        (0.5, [5, 4, 10, 10], 2 * (0 / 5) + 1.0),  # a fall by rounding is levelled
    ],
)
def test_quantiles_are_interpolated_in_their_bucket(
    q: float, counts: list[float], expected: float | None
) -> None:
    assert quantile(q, [1, 2, 4, math.inf], counts) == (pytest.approx(expected) if expected else expected)


def test_splitting_by_revision_is_asked_of_every_form() -> None:
    for panel in PANELS.values():
        for line in Wanted(by_revision=True).lines(panel):
            assert ("revision" in line.query.by) == panel.has_arm, panel.id
            assert line.query.promql(window="1m")


def test_the_highest_lines_are_kept_and_the_others_counted() -> None:
    found = {f"line {index:02}": [float(index), None] for index in range(12)} | {"silent": [None, math.nan]}
    shown = drawn(PANELS["requests"], [1, 2], found)
    assert [line.name for line in shown.lines] == [f"line {index:02}" for index in range(4, 12)]
    assert shown.num_left_out == 4


def test_a_house_that_has_recorded_nothing_draws_nothing() -> None:
    recorder = Recorder(list, lambda: 1000.0)
    for panel in PANELS.values():
        assert draw_own(panel, Wanted(), recorder, now=1000.0).lines == []


def test_panels_are_unique_and_say_what_they_show() -> None:
    assert len(PANELS) == sum(len(group.panels) for group in GROUPS)
    for panel in PANELS.values():
        assert re.fullmatch(r"[a-z_]+", panel.id)
        assert str(panel.title)[0].isupper() and str(panel.description).endswith(".")
        assert panel.lines
    assert len(SAMPLE_NAMES) < 40
    assert list(RANGES) == ["15m", "1h", "6h", "24h"]


def test_the_committed_dashboards_are_those_of_the_list() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == texts(), "run `python -m monitoring.grafana`"


DASHBOARDS = {name: json.loads(text) for name, text in texts().items()}
every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


@every_dashboard
def test_a_dashboard_passes_the_lint(name: str) -> None:
    one = DASHBOARDS[name]
    assert f"{one['uid']}.json" == name and one["title"]
    ids = [panel["id"] for panel in one["panels"]]
    assert len(ids) == len(set(ids)) > 0
    variables = {variable["name"]: variable for variable in one["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in one["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["options"]["legend"]["calcs"] and panel["targets"]
        for target in panel["targets"]:
            assert target["expr"] and target["legendFormat"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    sources = re.findall(r'"datasource": \{\s*"type": "prometheus",\s*"uid": "([^"]*)"', json.dumps(one))
    assert set(sources) == {"${datasource}"}


def test_every_panel_has_its_place_in_a_dashboard() -> None:
    for panel_id, (group, number) in PLACES.items():
        (panel,) = [one for one in DASHBOARDS[f"{uid(group)}.json"]["panels"] if one["id"] == number]
        assert panel["title"] == str(PANELS[panel_id].title)


def test_an_arm_selector_filters_by_its_labels() -> None:
    failed = Rate(of("requests_total", outcome="failed"))
    assert failed.promql(window="1m") == 'sum (rate(pilothouse_requests_total{outcome="failed"}[1m]))'
