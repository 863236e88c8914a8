"""The one gate to outside tools: run, and on failure say which step failed in the tool's own words."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from guest.image.recipe import ImageError


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """
    The command's standard output; *env* is added to our own environment.

    Raises:
        ImageError: it is not installed or ended with an error; its last words are in the message.
    """
    full = {**os.environ, **(env or {})}  # noqa: TID251 - package tools are configured by it
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, env=full, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, errors="replace"
        )
    except FileNotFoundError as error:
        text = f"{words[0]} is not installed: install it and build the image again"
        raise ImageError(text) from error
    except subprocess.CalledProcessError as error:
        last = " / ".join((error.stderr or error.stdout).strip().splitlines()[-6:])
        text = f"{words[0]} failed ({error.returncode}): {last}"
        raise ImageError(text) from error
    return done.stdout
