"""The commands about requests: names, options and help, added to the tree of `cli.main`; nothing here acts."""

# ruff: noqa: FBT002, PLC0415 - typer makes flags of booleans; imports wait until a command runs

from pathlib import Path
from typing import Annotated

import typer

from cli.completion import complete_request, complete_service

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]
Id = Annotated[
    str,
    typer.Argument(
        help="The request's ID, or as much of its beginning as is unambiguous.", autocompletion=complete_request
    ),
]
Service = Annotated[
    str, typer.Argument(help="The service, as forkyard.toml calls it.", autocompletion=complete_service)
]
Because = Annotated[str, typer.Option(help="Why.", metavar="TEXT")]


def add_request_commands(app: typer.Typer) -> None:
    """Add them."""
    for command in (approve, deny, cancel, retry, rollback, lock, unlock, log, whoami):
        app.command()(command)
    audit = typer.Typer(no_args_is_help=True, help="The log of who asked, decided and did what.")
    audit.command("verify")(verify)
    app.add_typer(audit, name="audit")
    schedule = typer.Typer(no_args_is_help=True, help="What is going to happen by itself, and the pre-sale calendar.")
    schedule.command("list")(schedule_list)
    schedule.command("check")(schedule_check)
    schedule.command("sync")(schedule_sync)
    schedule.command("move")(schedule_move)
    schedule.command("cancel")(cancel)
    app.add_typer(schedule, name="schedule")


def approve(
    context: typer.Context,
    request: Id,
    break_glass: Annotated[
        str, typer.Option(help="Approve your own request although it is large, and say why.", metavar="TEXT")
    ] = "",
    json: Json = False,
) -> None:
    """
    Say yes to somebody's request; it starts, or is scheduled.

    Example: `forkyard approve 3fa9c1`
    """
    from cli.requests import run_approve

    raise typer.Exit(run_approve(context.obj, request, break_glass=break_glass, as_json=json))


def deny(context: typer.Context, request: Id, because: Because, json: Json = False) -> None:
    """
    Say no to somebody's request.

    Example: `forkyard deny 3fa9c1 --because "not today"`
    """
    from cli.requests import run_deny

    raise typer.Exit(run_deny(context.obj, request, because, as_json=json))


def cancel(context: typer.Context, request: Id, json: Json = False) -> None:
    """Take a request back, before or while it runs."""
    from cli.requests import run_cancel

    raise typer.Exit(run_cancel(context.obj, request, as_json=json))


def retry(context: typer.Context, request: Id, json: Json = False) -> None:
    """Ask again for what a request did not reach; only what is missing is made."""
    from cli.requests import run_again

    raise typer.Exit(run_again(context.obj, request, back=False, as_json=json))


def rollback(context: typer.Context, request: Id, json: Json = False) -> None:
    """Ask for the number that there was before a request."""
    from cli.requests import run_again

    raise typer.Exit(run_again(context.obj, request, back=True, as_json=json))


def lock(context: typer.Context, service: Service, because: Because, json: Json = False) -> None:
    """
    Let nobody change a service.

    Example: `forkyard lock game --because "audit until noon"`
    """
    from cli.requests import run_lock

    raise typer.Exit(run_lock(context.obj, service, because, as_json=json))


def unlock(context: typer.Context, service: Service, json: Json = False) -> None:
    """Let a service be changed again."""
    from cli.requests import run_unlock

    raise typer.Exit(run_unlock(context.obj, service, as_json=json))


def log(
    context: typer.Context,
    about: Annotated[str | None, typer.Argument(help="A service, a request's ID, or a person as @ID.")] = None,
    since: Annotated[str | None, typer.Option(help="How far back, such as 2h or 3d.", metavar="DURATION")] = None,
    json: Json = False,
) -> None:
    """
    Show what was asked, decided and done.

    Example: `forkyard log game --since 2h`
    """
    from cli.requests import run_log

    raise typer.Exit(run_log(context.obj, about, since, as_json=json))


def whoami(context: typer.Context, json: Json = False) -> None:
    """Say who you are to forkyard here, and what you may do."""
    from cli.requests import run_whoami

    raise typer.Exit(run_whoami(context.obj, as_json=json))


def verify(
    context: typer.Context,
    expect: Annotated[
        str | None, typer.Option(help="A head that was noted before: proves that nothing since was rewritten.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove the log whole; code 1 when it was changed, or entries are missing."""
    from cli.requests import run_verify

    raise typer.Exit(run_verify(context.obj, expect, as_json=json))


def schedule_list(
    context: typer.Context,
    service: Annotated[
        str | None, typer.Argument(help="The service; left out: all of them.", autocompletion=complete_service)
    ] = None,
    json: Json = False,
) -> None:
    """Show what is scheduled, what waits for approval, and what the calendar has beyond."""
    from cli.schedule import run_list

    raise typer.Exit(run_list(context.obj, service, as_json=json))


def schedule_check(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The calendar; left out: the one in force.")] = None,
    json: Json = False,
) -> None:
    """
    Say what is wrong with a calendar, by line and key, or what follows from it.

    Example: `forkyard schedule check deployments/presales.toml`
    """
    from cli.schedule import run_check

    raise typer.Exit(run_check(context.obj, file, as_json=json))


def schedule_sync(context: typer.Context, json: Json = False) -> None:
    """Put on record what the calendar wants within two days, and start what is due; the bot does so by itself."""
    from cli.schedule import run_sync

    raise typer.Exit(run_sync(context.obj, as_json=json))


def schedule_move(
    context: typer.Context,
    request: Id,
    to: Annotated[str, typer.Option(help="When, such as `tomorrow 05:00 America/New_York`.", metavar="WHEN")],
    json: Json = False,
) -> None:
    """Have a scheduled request start at another time; it must be approved anew."""
    from cli.schedule import run_move

    raise typer.Exit(run_move(context.obj, request, to, as_json=json))
