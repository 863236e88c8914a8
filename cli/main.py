"""
The command tree: names, options and help, and nothing that acts.

Every command imports what it needs when it runs: `forkyard scale` is to have its run created within half a
second, and a help text needs no driver.
"""

# ruff: noqa: FBT002, PLC0415 - typer makes flags of booleans; imports wait until a command runs

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.completion import complete_bench, complete_parent, complete_service
from cli.output import wants_json
from cli.request_commands import add_request_commands

app = typer.Typer(
    name="forkyard",
    help="Scale an app in seconds by forking running VMs.",
    epilog="Begin with `forkyard doctor`: it says what is missing on this machine and what to do about it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
lab_app = typer.Typer(no_args_is_help=True, help="The small world on one machine: Consul, Nginx, Prefect, a parent VM.")
parent_app = typer.Typer(no_args_is_help=True, help="The VMs that children are forked from.")
app.add_typer(lab_app, name="lab")
app.add_typer(parent_app, name="parent")


Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout; progress stays on stderr.")]
Service = Annotated[
    str, typer.Argument(help="The service, as forkyard.toml calls it.", autocompletion=complete_service)
]
SomeService = Annotated[
    str | None, typer.Argument(help="The service; left out: all of them.", autocompletion=complete_service)
]


def _read_target(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{text} is not a whole number. Ask for the number of children that are to serve."
        raise typer.BadParameter(message) from error


Target = Annotated[
    int,
    typer.Option("--to", help="How many children are to serve: an absolute number.", metavar="N", parser=_read_target),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"forkyard {version('forkyard')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The forkyard.toml to read.", envvar="FORKYARD_CONFIG", show_envvar=True),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Write the log to stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Scale an app in seconds by forking running VMs."""
    import logging

    del version  # its callback has answered it
    context.obj = config
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


@app.command()
def doctor(context: typer.Context, json: Json = False) -> None:
    """
    Check this machine and the lab; each finding with a next step.

    Exit code 0 when nothing failed (warnings are allowed), 2 when something must be mended first.
    """
    from cli.doctor import run_doctor

    raise typer.Exit(run_doctor(context.obj, as_json=json))


def end_as_by_ctrl_c() -> None:
    """Ended by whoever, the command undoes what it began: a terminal that is closed must not leave half a fleet."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@app.command()
def scale(  # noqa: PLR0913, PLR0917 - one option each
    context: typer.Context,
    service: Service,
    to: Target,
    dry_run: DryRun = False,
    because: Annotated[str, typer.Option(help="Why; stands in the run's tags and report.", metavar="TEXT")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the last children go.")] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run the flow here, even when Prefect answers.")
    ] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Only ask: somebody has to approve it first.")] = False,
    at: Annotated[
        str | None, typer.Option("--at", help="When, such as `2026-11-27T05:00 America/New_York`; implies --ask.")
    ] = None,
    hold: Annotated[
        str | None, typer.Option("--for", help="How long, such as 6h; then the fleet goes back; implies --ask.")
    ] = None,
    json: Json = False,
) -> None:
    """
    Bring a service to N serving children, by forking or by draining.

    Goes through the Prefect deployment when its server answers, and says where to look. Ctrl-C cancels the run
    and leaves a consistent fleet. Asking for the same number again changes nothing.

    Examples:
    * `forkyard scale game --to 4`
    * `forkyard scale game --to 12 --because "pre-sale at noon" --json`
    * `forkyard scale game --to 0 --dry-run`
    * `forkyard scale game --to 12 --at "tomorrow 05:00" --for 6h --because "pre-sale"`
    """
    if (ask or at or hold) and not dry_run:
        from cli.requests import run_ask

        raise typer.Exit(run_ask(context.obj, service, to, at=at, hold=hold, reason=because, as_json=json))

    from cli.scale import ScaleOptions, run_scale

    end_as_by_ctrl_c()
    options = ScaleOptions(
        service=service, target=to, dry_run=dry_run, reason=because, yes=yes, in_process=in_process, as_json=json
    )
    raise typer.Exit(run_scale(context.obj, options))


@app.command()
def plan(context: typer.Context, service: Service, to: Target, json: Json = False) -> None:
    """
    Show what `scale` would do: per parent and host, before and after.

    Example: `forkyard plan game --to 8`
    """
    from cli.fleet import run_plan

    raise typer.Exit(run_plan(context.obj, service, to, as_json=json))


@app.command()
def status(
    context: typer.Context,
    service: SomeService = None,
    check: Annotated[bool, typer.Option("--check", help="End with code 1 unless the fleet is as asked.")] = False,
    json: Json = False,
) -> None:
    """
    Show the children of a service, or of all, as they are now.

    Examples:
    * `forkyard status`
    * `forkyard status game --json | jq .services.game.serving`
    """
    from cli.fleet import run_status

    raise typer.Exit(run_status(context.obj, service, check=check, as_json=json))


@app.command()
def watch(
    context: typer.Context,
    service: SomeService = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60)] = 1.0,
    json: Json = False,
) -> None:
    """
    Follow the children live, until Ctrl-C.

    Without a terminal, a line (or with `--json` an object) for each change.
    """
    from cli.fleet import run_watch

    raise typer.Exit(run_watch(context.obj, service, every=every, as_json=json))


@app.command()
def reap(context: typer.Context, service: SomeService = None, dry_run: DryRun = False, json: Json = False) -> None:
    """
    Remove what nobody owns: VMs, registrations and upstream lines that a killed run left behind.

    Works without Prefect. Touches only what carries forkyard's stamp, and only what was seen twice.
    """
    from cli.reap import run_reap

    raise typer.Exit(run_reap(context.obj, service, dry_run=dry_run, as_json=json))


@app.command()
def sync(context: typer.Context, service: SomeService = None, json: Json = False) -> None:
    """Stay, and keep Nginx's upstreams as Consul says, until Ctrl-C."""
    from cli.sync import run_resident_sync

    raise typer.Exit(run_resident_sync(context.obj, service, as_json=json))


@app.command()
def bot(
    context: typer.Context,
    lab: Annotated[bool, typer.Option("--lab", help="Listen to the lab's own small Slack.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing.")] = False,
    json: Json = False,
) -> None:
    """Stay, and listen to Slack: /fleet there is `forkyard` here. Says what is missing, a sentence each."""
    from cli.bot import run_bot

    raise typer.Exit(run_bot(context.obj, lab=lab, check=check, as_json=json))


@app.command()
def bench(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Which; left out: the list of them.", autocompletion=complete_bench)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that this lab can; with --json one object a line.")] = False,
    runs: Annotated[int | None, typer.Option(help="How often; the median counts.", min=1, max=100)] = None,
    json: Json = False,
) -> None:
    """
    Measure, and compare with the bar.

    Examples:
    * `forkyard bench`
    * `forkyard bench scale-4 --runs 3 --json`
    * `forkyard bench --all --json`
    """
    from cli.bench import run_bench

    end_as_by_ctrl_c()

    raise typer.Exit(run_bench(context.obj, name, every=every, runs=runs, as_json=json))


@app.command()
def demo(context: typer.Context, service: Service = "game", json: Json = False) -> None:
    """Start the lab, fork four children of one warm VM, and show who answers, where to look, how to go on."""
    from cli.demo import run_demo

    raise typer.Exit(run_demo(context.obj, service, as_json=json))


@lab_app.command("up")
def lab_up(
    context: typer.Context,
    hypervisor: Annotated[
        str | None, typer.Option(help="qemu, or vsphere: a simulated vCenter. Left out: as forkyard.toml says.")
    ] = None,
    hosts: Annotated[int | None, typer.Option(help="ESXi hosts of the vCenter, each with a parent.")] = None,
    json: Json = False,
) -> None:
    """
    Start what is not running: Consul, Nginx, Prefect, the parent. The second time is quick.

    Examples:
    * `forkyard lab up`
    * `forkyard lab up --hypervisor vsphere --hosts 64`
    """
    from cli.lab import run_up

    raise typer.Exit(run_up(context.obj, hypervisor=hypervisor, hosts=hosts, as_json=json))


@lab_app.command("down")
def lab_down(context: typer.Context, json: Json = False) -> None:
    """Stop all of it, children included; frozen parents stay on disk."""
    from cli.lab import run_down

    raise typer.Exit(run_down(context.obj, as_json=json))


@lab_app.command("status")
def lab_status(context: typer.Context, json: Json = False) -> None:
    """Say what runs, and the addresses to open."""
    from cli.lab import run_status

    raise typer.Exit(run_status(context.obj, as_json=json))


ParentName = Annotated[str, typer.Argument(help="The parent's name.", autocompletion=complete_parent)]


@parent_app.command("build")
def parent_build(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service that it is for.")] = "game",
    again: Annotated[
        bool, typer.Option("--again", help="Build all of it anew, with the Debian packages of today.")
    ] = False,
    json: Json = False,
) -> None:
    """Build the parent's disk image and boot it to the fork point, running and not yet frozen."""
    from cli.parent import run_build

    raise typer.Exit(run_build(context.obj, service, again=again, as_json=json))


@parent_app.command("freeze")
def parent_freeze(context: typer.Context, name: ParentName = "game", json: Json = False) -> None:
    """Quiesce the app, stop the VM, and keep memory, state and disk as a frozen parent."""
    from cli.parent import run_freeze

    raise typer.Exit(run_freeze(context.obj, name, as_json=json))


@parent_app.command("list")
def parent_list(context: typer.Context, json: Json = False) -> None:
    """List the parents, running and frozen."""
    from cli.parent import run_list

    raise typer.Exit(run_list(context.obj, as_json=json))


@parent_app.command("verify")
def parent_verify(context: typer.Context, name: ParentName = "game", json: Json = False) -> None:
    """Read a frozen parent's files again and compare them with its fingerprint."""
    from cli.parent import run_verify

    raise typer.Exit(run_verify(context.obj, name, as_json=json))


@parent_app.command("remove")
def parent_remove(
    context: typer.Context,
    name: ParentName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a frozen parent; refused while children live that share its memory."""
    from cli.parent import run_remove

    raise typer.Exit(run_remove(context.obj, name, yes=yes, as_json=json))


add_request_commands(app)


def _translated(error: Exception) -> BaseException:
    from forkyard.errors import InvalidRequest

    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        step = f" Try `{context.command_path} -h`." if context is not None else ""
        return InvalidRequest(f"{error.format_message().removesuffix('.')}.{step}")
    return KeyboardInterrupt()  # typer's word for Ctrl-C at a question


def main() -> None:
    """Run the command line; every way out has its exit code (see `cli.failures`)."""
    try:
        # For people typer shows in a box what it could not parse; with --json that is a failure like all others.
        sys.exit(app(standalone_mode=not wants_json()))
    except (typer.TyperException, typer.Abort) as error:
        from cli.failures import report_failure

        sys.exit(report_failure(_translated(error)))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost edge: no traceback surfaces
        from cli.failures import report_failure

        sys.exit(report_failure(error))


if __name__ == "__main__":
    main()
