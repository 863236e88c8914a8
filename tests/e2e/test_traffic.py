"""Players notice nothing while the fleet grows and shrinks."""

import re
import subprocess

from forkyard.processes import in_namespace
from tests.support.lab import Lab


def test_not_one_request_fails_while_the_fleet_goes_from_2_to_6_to_2(empty_lab: Lab) -> None:
    empty_lab.scale(2)
    load = subprocess.Popen(
        in_namespace(
            ["wrk", "-t1", "-c4", "-d600s", "--timeout", "10s", "http://10.79.0.1/"],
            empty_lab.settings.nginx.namespace,
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        up = empty_lab.scale(6)
        down = empty_lab.scale(2)
    finally:
        load.send_signal(2)  # wrk sums up at an interrupt
        out, _ = load.communicate(timeout=60)

    assert (up.code, down.code) == (0, 0), f"{up.err}\n{down.err}"
    total = re.search(r"(\d+) requests in", out)
    assert total is not None, out
    assert int(total[1]) > 100, out
    assert "Socket errors" not in out, out
    assert "Non-2xx" not in out, out
