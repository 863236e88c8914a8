"""The Debian base: a root filesystem as a tar, from the mirror and the keys that this machine's apt already uses."""

from pathlib import Path

from guest.image.recipe import BASE_COMMAND, DEBIAN, EPOCH, ImageError
from guest.image.shell import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def make_base(tar: Path) -> None:
    """Write the base's tar; raises ImageError when apt knows no Debian mirror."""
    run([*BASE_COMMAND, str(tar), *find_sources()], env={"SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"})


def find_sources(listing: str | None = None) -> list[str]:
    """
    The sources.list lines for this release, with the mirrors of the machine's own apt.

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
        text = f"apt knows no Debian mirror to take {DEBIAN}'s packages from: add one to /etc/apt/sources.list.d"
        raise ImageError(text)
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    lines = [f"deb {signed}{sites['Debian']} {suite} main" for suite in (DEBIAN, f"{DEBIAN}-updates")]
    if security := sites.get("Debian-Security"):
        lines.append(f"deb {signed}{security} {DEBIAN}-security main")
    return lines
