"""How benches judge: pure parts, without a lab."""

from dataclasses import replace
from importlib import import_module

import pytest

from cli.bench import BENCHES, Run, make_result, run_bench
from cli.bench.identity import find_contradictions, find_shared
from cli.bench.load import parse_wrk
from forkyard.errors import InvalidRequest, PermanentError

WRK = """\
Running 10m test @ http://127.0.0.1:18080
  1 threads and 8 connections
  Latency Distribution
     50%    1.20ms
  12345 requests in 41.02s, 10.00MB read
"""


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_every_bench_can_be_measured(name: str) -> None:
    bench = BENCHES[name]
    assert callable(getattr(import_module(bench.module), bench.function))


def test_the_median_is_the_value_and_is_held_against_the_bar() -> None:
    runs = [Run(12.0, {}), Run(40.0, {}), Run(14.0, {"note": "x"})]
    result = make_result(BENCHES["scale-4"], runs)
    assert (result["bench"], result["value"], result["bar"], result["holds"]) == ("scale-4", 14.0, 15, True)
    assert result["runs"] == [{"value": 12.0}, {"value": 40.0}, {"value": 14.0, "note": "x"}]
    assert {"cores", "memory_bytes", "kernel"} <= set(result["machine"])  # type: ignore[call-overload]


def test_of_what_must_never_happen_one_time_is_too_much() -> None:
    runs = [Run(0.0, {})] * 9 + [Run(1.0, {})]
    assert make_result(BENCHES["kill-reap"], runs)["holds"] is False


def test_a_ratio_that_must_be_large_is_held_from_below() -> None:
    cold = BENCHES["cold-boot"]
    assert cold.judge(15.0)
    assert not cold.judge(14.9)
    assert not replace(cold, bar=20).judge(16)


def test_wrk_without_an_error_failed_nothing() -> None:
    value, details = parse_wrk(WRK, 41.0)
    assert value == 0
    assert details["requests"] == 12345


def test_wrks_errors_are_added_up() -> None:
    value, details = parse_wrk(
        WRK + "  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 4\n", 41.0
    )
    assert value == 10
    assert details["non_2xx"] == 4


def test_a_load_that_nobody_answered_is_no_success() -> None:
    with pytest.raises(PermanentError, match="no answer at all"):
        parse_wrk("unable to connect", 1.0)


def test_a_value_that_two_children_share_is_found() -> None:
    seen = {"mac": {"a": "1", "b": "1"}, "clock": {"a": "now", "b": "now"}, "hostname": {"a": "x"}}
    assert find_shared(seen, 2) == ["mac: 1 values belong to several children", "hostname: seen of 1 children only"]


def test_a_witness_that_disagrees_with_the_guest_is_found() -> None:
    inside = {"mac": {"a": "52:54:00:00:00:01"}, "fork_uuid": {"a": "f"}, "address": {"a": "10.0.0.12/16"}}
    assert find_contradictions(inside, {"neighbour mac": {"a": "52:54:00:00:00:01"}}) == []
    assert find_contradictions(inside, {"fork id as players meet it": {"a": "g"}}) == [
        "fork id as players meet it: a is g, and its guest proved f"
    ]
    assert find_contradictions(inside, {"consul address": {"a": "10.0.0.12"}}) == []
    assert len(find_contradictions(inside, {"consul address": {"a": "10.0.0.1"}})) == 1


def test_a_fingerprint_with_a_slash_is_met_whole() -> None:
    inside = {"ssh_host_keys": {"a": "SHA256:8zM/ssa"}}
    assert find_contradictions(inside, {"ssh host key on disk": {"a": "SHA256:8zM/ssa"}}) == []


def test_a_clock_that_is_off_is_found() -> None:
    assert find_contradictions({}, {"clock": {"a": "right", "b": "+67 s"}}) == ["clock: b is off by +67 s"]


def test_one_bench_and_all_of_them_at_once_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="one bench or --all"):
        run_bench(None, "scale-4", every=True, runs=None, as_json=True)
