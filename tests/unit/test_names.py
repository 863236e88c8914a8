"""Names follow from what they belong to."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from forkyard.names import SERVICE_NAME, TOKEN_LENGTH, make_child_name, make_fork_id, make_token, new_request_id

REQUEST = "7f3a91c0-52d4-4f7e-9a5e-0d8f6b1b7c44"


def test_a_childs_name_has_service_token_and_ordinal() -> None:
    assert make_child_name("game", REQUEST, 3) == "game-7f3a91-3"


@given(st.uuids(), st.integers(1, 500))
def test_the_same_values_give_the_same_name(request_id: uuid.UUID, ordinal: int) -> None:
    assert make_child_name("game", str(request_id), ordinal) == make_child_name("game", str(request_id), ordinal)


@given(st.text(max_size=60))
def test_any_request_id_gives_a_token_that_a_host_name_may_hold(request_id: str) -> None:
    token = make_token(request_id)
    assert len(token) == TOKEN_LENGTH
    assert set(token) <= set("0123456789abcdef")


@given(st.from_regex(SERVICE_NAME, fullmatch=True), st.uuids(), st.integers(1, 9999))
def test_every_childs_name_is_a_dns_label(service: str, request_id: uuid.UUID, ordinal: int) -> None:
    name = make_child_name(service, str(request_id), ordinal)
    assert len(name) <= 63
    assert not name.startswith("-")
    assert not name.endswith("-")


def test_two_children_of_a_request_have_different_fork_ids() -> None:
    first, second = (make_fork_id(REQUEST, make_child_name("game", REQUEST, n)) for n in (1, 2))
    assert first != second
    assert str(uuid.UUID(first)) == first


def test_a_repeated_fork_has_the_same_fork_id() -> None:
    assert make_fork_id(REQUEST, "game-7f3a91-1") == make_fork_id(REQUEST, "game-7f3a91-1")


def test_each_request_has_an_id_of_its_own() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100
