"""
SSH host keys, made in process: ssh-keygen would be one more cold program.

Only Ed25519 is made: it needs 32 random bytes and no search for primes. The keys of other kinds are
the parent's and are removed. The bytes come from the kernel, not from OpenSSL, whose generator lives
in this process and was forked with it.
"""

import base64
import hashlib
import os
import signal
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from guest.agent.errors import PointFailed
from guest.agent.files import read_or_empty, write_whole


def replace_host_keys(root: Path, name: str) -> str:
    """Put fresh host keys where sshd looks, remove all others; the new fingerprint as ssh-keygen prints it."""
    key = Ed25519PrivateKey.from_private_bytes(os.urandom(32))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    directory = root / "etc/ssh"
    secret = directory / "ssh_host_ed25519_key"
    old = fingerprint(read_or_empty(secret.with_suffix(".pub")))
    write_whole(secret, private, 0o600)
    write_whole(secret.with_suffix(".pub"), f"{public} root@{name}\n")
    for other in directory.glob("ssh_host_*"):
        if other not in {secret, secret.with_suffix(".pub")}:
            other.unlink()
    found = fingerprint(read_or_empty(secret.with_suffix(".pub")))
    if found != fingerprint(public) or found == old or read_or_empty(secret) != private:
        text = f"{secret} does not hold the key that was written"
        raise PointFailed(text)
    _reload_sshd(root)
    return found


def fingerprint(public: str) -> str:
    """`SHA256:…` of a public key's line; empty for an empty line."""
    if not public:
        return ""
    blob = base64.b64decode(public.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _reload_sshd(root: Path) -> None:
    # A running sshd keeps the parent's keys in memory until it is told to read them again.
    pid = read_or_empty(root / "run/sshd.pid").strip()
    if pid.isdigit():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGHUP)
