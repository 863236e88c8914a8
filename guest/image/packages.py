"""The Debian base: a root filesystem as a tar, from the mirror and the keys that this machine's apt already uses."""

from pathlib import Path

from guest.image.recipe import BASE_COMMAND, DEBIAN, EPOCH, ImageError
from guest.image.shell import run

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


def make_base(tar: Path) -> None:
    """
    Write the base's tar.

    Raises:
        ImageError: a step failed, or nothing on this machine can check Debian's packages.
    """
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    sources = find_sources(keyring)
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"}
    try:
        run([*BASE_COMMAND, str(tar), *(sources or render_default(keyring))], env=environment)
    except ImageError as error:
        if sources:
            raise
        text = f"{error}. It asked its own Debian mirror, because apt knows none; add one to /etc/apt/sources.list.d"
        raise ImageError(text) from error


def find_sources(keyring: Path | None, listing: str | None = None) -> list[str]:
    """
    The sources.list lines for this release, with the mirrors of the machine's own apt; none where it knows none.

    The machine may run another release of Debian: only the mirrors' addresses are taken from it.
    """
    if listing is None:
        listing = run(["apt-get", "indextargets", "--format", "$(SITE)|$(LABEL)|$(COMPONENT)", "Created-By: Packages"])
    sites: dict[str, str] = {}
    for line in listing.splitlines():
        site, label, component = line.split("|")
        if component == "main":
            sites.setdefault(label, site)
    if "Debian" not in sites:
        return []
    signed = f"[signed-by={keyring}] " if keyring else ""
    lines = [f"deb {signed}{sites['Debian']} {suite} main" for suite in (DEBIAN, f"{DEBIAN}-updates")]
    if security := sites.get("Debian-Security"):
        lines.append(f"deb {signed}{security} {DEBIAN}-security main")
    return lines


def render_default(keyring: Path | None) -> list[str]:
    """
    Arguments that leave the choice of the mirrors to mmdebstrap, as on Ubuntu, whose apt knows Ubuntu's only.

    Raises:
        ImageError: Debian's keys are not there, so that nothing could check what comes.
    """
    if keyring is None:
        text = (
            f"apt knows no Debian mirror to take {DEBIAN}'s packages from, and {KEYRINGS[0]} is not there to check "
            f"those of mmdebstrap's own: install the package debian-archive-keyring"
        )
        raise ImageError(text)
    return [f"--keyring={keyring}"]
