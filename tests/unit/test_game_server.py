"""The game as it runs in its container, under the Node.js that is pinned for it; loopback only."""

import base64
import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.errors import NotReady
from forkyard.settings import Settings
from forkyard.waiting import wait_for
from guest.image.node import find_node
from guest.image.recipe import GUEST

Answer = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Game:
    """One running game."""

    port: int
    identity_file: Path

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Status and body of one exchange on a connection of its own."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def look(self) -> dict[str, object]:
        """The game's own view as JSON."""
        status, text = self.ask("GET", "/", Accept="application/json")
        assert status == 200, text
        return dict(json.loads(text))

    def reidentify(self, name: str, fork_id: str) -> Answer:
        """Make it *name*, as the agent does."""
        entropy = base64.b64encode(os.urandom(32)).decode()
        return self.ask("POST", "/reidentify", {"name": name, "fork_id": fork_id, "entropy": entropy})


@pytest.fixture(scope="session")
def node() -> Path:
    return find_node(Settings().cache_dir)


@pytest.fixture
def start(node: Path, tmp_path: Path) -> Iterator[Callable[[], Game]]:
    """Start a game; each call a new process with the same identity file."""
    running: list[subprocess.Popen[bytes]] = []

    def start_one() -> Game:
        port_file = tmp_path / f"port-{len(running)}"
        environment = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "FORKYARD_PORT_FILE": str(port_file),
            "FORKYARD_IDENTITY": str(tmp_path / "identity.json"),
            **{key: value for key, value in os.environ.items() if key.startswith("FORKYARD_TEST")},  # noqa: TID251 - marks the run
        }
        running.append(subprocess.Popen([node, "--expose-gc", GUEST / "game" / "server.js"], env=environment))
        port = wait_for(lambda: _read_port(port_file), what="the game's port", timeout=timedelta(seconds=30))
        return Game(port, tmp_path / "identity.json")

    yield start_one
    for process in running:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def game(start: Callable[[], Game]) -> Game:
    return start()


def _read_port(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError) as error:
        text = "the game does not listen yet"
        raise NotReady(text) from error


def test_an_unforked_game_says_that_no_child_answers(game: Game) -> None:
    seen = game.look()
    assert (seen["child"], seen["fork_id"], seen["served"]) == (None, None, 1)


def test_ticks_go_on_without_anybody_looking(game: Game) -> None:
    first = game.look()["ticks"]
    wait_for(lambda: game.look()["ticks"] != first or None, what="a tick", timeout=timedelta(seconds=10))


def test_a_browser_gets_a_page_that_names_the_child(game: Game) -> None:
    game.reidentify("game-abc-1", "f1")
    status, page = game.ask("GET", "/", Accept="text/html")
    assert status == 200
    assert "<h1>game-abc-1</h1>" in page


def test_a_quiesced_game_is_unhealthy_until_it_is_reidentified(game: Game) -> None:
    assert game.ask("GET", "/healthz")[0] == 200
    assert game.ask("POST", "/quiesce")[0] == 200
    assert game.ask("GET", "/healthz")[0] == 503
    assert game.ask("GET", "/")[0] == 503
    assert game.reidentify("game-abc-1", "f1")[0] == 200
    assert game.ask("GET", "/healthz")[0] == 200


def test_ticks_stand_still_while_quiesced_and_go_on_where_they_stood(game: Game) -> None:
    game.look()
    stood = json.loads(game.ask("POST", "/quiesce")[1])["ticks"]
    assert json.loads(game.ask("POST", "/quiesce")[1])["ticks"] == stood
    answer = json.loads(game.reidentify("game-abc-1", "f1")[1])
    assert answer["ticks"] == stood


def test_reidentify_drops_sessions_and_starts_the_childs_own_counters(game: Game) -> None:
    session = json.loads(game.ask("POST", "/join", {"name": "zoe"})[1])["session"]
    assert game.ask("GET", "/me", **{"X-Session": session})[0] == 200
    game.look()
    answer = json.loads(game.reidentify("game-abc-1", "f1")[1])
    assert answer["dropped"]["sessions"] == 1
    assert game.ask("GET", "/me", **{"X-Session": session})[0] == 401
    seen = game.look()
    assert (seen["child"], seen["fork_id"], seen["served"], seen["sessions"]) == ("game-abc-1", "f1", 1, 0)


def test_each_reidentify_draws_other_randomness(game: Game) -> None:
    fingerprints = {json.loads(game.reidentify("game-abc-1", "f1")[1])["fingerprint"] for _ in range(3)}
    assert len(fingerprints) == 3


def test_reidentify_without_entropy_is_refused_and_changes_nothing(game: Game) -> None:
    status, text = game.ask("POST", "/reidentify", {"name": "game-abc-1", "fork_id": "f1"})
    assert status == 400
    assert "entropy" in text
    assert game.look()["child"] is None


def test_another_identity_than_the_machines_own_file_is_refused(game: Game) -> None:
    game.identity_file.write_text(json.dumps({"name": "game-abc-1", "fork_id": "f1"}))
    assert game.reidentify("game-abc-2", "f2")[0] == 409
    assert game.look()["child"] is None


def test_a_game_restarted_in_a_child_is_still_that_child(start: Callable[[], Game]) -> None:
    first = start()
    first.identity_file.write_text(json.dumps({"name": "game-abc-1", "fork_id": "f1"}))
    assert start().look()["child"] == "game-abc-1"


def test_warming_changes_nothing_that_a_player_sees(game: Game) -> None:
    assert game.ask("POST", "/warm")[0] == 200
    seen = game.look()
    assert (seen["child"], seen["served"], seen["sessions"]) == (None, 1, 0)


@pytest.mark.parametrize("path", ["/quiesce", "/reidentify", "/warm"])
def test_control_paths_are_not_for_players(game: Game, path: str) -> None:
    player = http.client.HTTPConnection("127.0.0.1", game.port, timeout=10, source_address=("127.0.0.2", 0))
    player.request("POST", path, "{}")
    with player.getresponse() as answer:
        assert answer.status == 403
    player.close()


def test_metrics_count_requests_by_path_and_code(game: Game) -> None:
    game.look()
    game.ask("GET", "/nothing-here")
    lines = game.ask("GET", "/metrics")[1].splitlines()
    assert 'game_requests_total{path="/",code="200"} 1' in lines
    assert 'game_requests_total{path="other",code="404"} 1' in lines
    assert "game_served_total 1" in lines


def test_a_body_that_is_not_json_gets_a_sentence(game: Game) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{game.port}/join", b"{", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 - loopback
    with refused.value as answer:
        assert answer.code == 400
        assert "not JSON" in answer.read().decode()
