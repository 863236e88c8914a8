"""
The recipe that makes a parent's disk from Debian's packages.

`build_image` promises a directory with a kernel, an initrd, a disk and image.json, made once per set of
inputs and returned at once ever after. It needs root, mmdebstrap, mke2fs, qemu-img and uv; nothing of the running
system is touched.
"""

from guest.image.build import build_image
from guest.image.recipe import GuestImage, ImageError

__all__ = ["GuestImage", "ImageError", "build_image"]
