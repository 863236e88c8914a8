"""
The kernel's random number generator, which a fork copies with all its state.

Writing to /dev/urandom is not enough: it credits nothing and reseeds later. RNDADDENTROPY credits the
host's bytes, RNDRESEEDCRNG makes the generator use them at once (random(4)).
"""

import base64
import binascii
import fcntl
import hashlib
import os
import struct

from guest.agent.errors import PointFailed

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
SEED_BYTES = 32


def reseed(seed: str) -> str:
    """Stir base64 *seed* into the kernel's generator; a fingerprint of bytes drawn after it."""
    try:
        entropy = base64.b64decode(seed, validate=True)
    except (binascii.Error, ValueError):
        text = "the seed is not base64"
        raise PointFailed(text) from None  # the cause would quote the secret
    if len(entropy) != SEED_BYTES:
        text = f"the seed has {len(entropy)} bytes, not {SEED_BYTES}"
        raise PointFailed(text)
    device = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("=ii", SEED_BYTES * 8, SEED_BYTES) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)
    except OSError as error:
        text = f"the kernel does not take the seed: {error}"
        raise PointFailed(text) from error
    finally:
        os.close(device)
    return fingerprint()


def fingerprint() -> str:
    """What a person can compare between children: a hash over bytes that are used for nothing else."""
    return hashlib.sha256(os.urandom(32)).hexdigest()[:32]
