"""`python -m guest.image build --out DIR --consul FILE`: build the image by hand and say where it is."""

import argparse
import logging
import sys
from pathlib import Path

from guest.image import ImageError, build_image
from guest.image.build import MEMORY_MIB


def main() -> int:
    """Build; the image's directory is the last line of the output."""
    parser = argparse.ArgumentParser(prog="python -m guest.image", description=__doc__)
    parser.add_argument("verb", choices=["build"])
    parser.add_argument("--out", type=Path, required=True, help="cache directory; the image goes into its images/")
    parser.add_argument("--consul", type=Path, required=True, help="the Consul binary that the guest gets")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="RAM that the parent gets")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        image = build_image(chosen.out, consul=chosen.consul, memory_mib=chosen.memory_mib)
    except ImageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{image.directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
