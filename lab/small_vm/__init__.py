"""
A VM so small that a hundred fit: Debian's cloud kernel and a few files of busybox.

For tests and for the bench of forking alone. Its agent is a shell script (`init`, which says which
identity points it only echoes); it answers HTTP on port 8080 with its name.
"""

from lab.small_vm.build import build_small_image

__all__ = ["build_small_image"]
