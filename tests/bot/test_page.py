"""The page in a real browser: a person types a command, another one approves, and the message moves."""

from collections.abc import Iterator

import pytest

from tests.bot.conftest import Stage
from tests.support.browser import Page, running_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running_browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def words() -> str:
    return "(document.querySelector('#messages')?.innerText ?? '')"


def visit(page: Page, stage: Stage, person: str) -> None:
    page.open(f"{stage.slack.url}/?as={person}")
    page.until("document.querySelectorAll('#person option').length === 3")


def test_a_person_types_another_approves_and_the_picture_opens(stage: Stage, page: Page) -> None:
    visit(page, stage, "anna")
    page.type("#text", "/fleet scale game to 4")
    page.until(f"{words()}.includes('0 → 4 servers')")
    page.choose("#person", "ben")
    page.until("document.body.dataset.person === 'ben'")
    page.until(f"{words()}.includes('Approve')")
    page.press("[data-action=approve]")
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.prefect.progress(run, 4, 2, 0, 0, 0, total=4)
    page.until(f"{words()}.includes('2 of 4')")
    assert page.run("document.querySelectorAll('.task.complete').length") == 2
    stage.prefect.end(run, serving=4, made=4)
    page.until(f"{words()}.includes('4 serve')")
    page.until("document.querySelector('.thread img')?.naturalWidth === 1200")
    page.press("[data-place=home]")
    page.until(f"{words()}.includes('Recent')")
    assert page.run("document.querySelector('#complaints').hidden")


def beyond() -> str:
    """How many pixels the newest is below what is seen."""
    return "((list) => list.scrollHeight - list.scrollTop - list.clientHeight)(document.querySelector('#messages'))"


def test_the_newest_is_seen_when_pictures_load_after_it_and_after_a_command_of_ones_own(
    stage: Stage, page: Page
) -> None:
    message = stage.ask()
    stage.slack.click(message, "approve", "ben")
    run = stage.until_run()
    assert stage.prefect.begin(run)
    stage.prefect.end(run, serving=4, made=4)
    stage.until_thread(message)
    visit(page, stage, "anna")
    page.until("document.querySelector('.thread img')?.naturalWidth === 1200")
    page.until(f"{beyond()} < 2")
    for number in range(8):
        stage.slack.command(f"plan game to {5 + number}")
    page.until(f"{words()}.includes('0 → 12')")
    page.until(f"{beyond()} < 2")
    page.run("document.querySelector('#messages').scrollTop = 0")
    stage.slack.command("plan game to 20")
    page.until(f"{words()}.includes('0 → 20')")
    assert page.run("document.querySelector('#messages').scrollTop") == 0
    page.type("#text", "/fleet plan game to 21")
    page.until(f"{words()}.includes('0 → 21')")
    page.until(f"{beyond()} < 2")


def test_the_form_is_filled_in_and_sent(stage: Stage, page: Page) -> None:
    visit(page, stage, "anna")
    page.type("#text", "/fleet scale gmae to 4")
    page.press("[data-action=form]")
    page.until("document.querySelector('dialog').open")
    page.choose("dialog [name=service]", "game")
    page.run("document.querySelector('dialog [name=target]').value = ''")
    page.type("dialog [name=target]", "6")
    assert stage.until_row("awaiting approval").target == 6
    page.until("!document.querySelector('dialog').open")


def test_nothing_that_is_said_becomes_markup_of_the_page(stage: Stage, page: Page) -> None:
    evil = '<img src=x onerror=\\"document.title=1\\">'
    stage.slack.command(f'scale game to 4 because "{evil.replace(chr(92), "")[:30]}\'"')
    visit(page, stage, "ben")
    page.until(f"{words()}.includes('Approve')")
    assert page.run("document.querySelectorAll('#messages img').length") == 0
