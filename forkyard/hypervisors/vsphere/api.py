"""
The one door to pyVmomi's types.

They are made at import from tables and depend on the version that the server speaks, so for type checkers they are
Any; what comes out of them is checked where it enters our own values.
"""

from typing import Any

import pyVmomi

_pyvmomi: Any = pyVmomi
vim = _pyvmomi.vim
vmodl = _pyvmomi.vmodl
versions = _pyvmomi.VmomiSupport
SoapStub = _pyvmomi.SoapStubAdapter

Managed = Any
"""A managed object, or a reference to one: pyVmomi makes no difference."""


def moid(managed: Managed) -> str:
    """What vCenter calls an object, such as vm-42."""
    return str(managed._moId)  # noqa: SLF001 - pyVmomi has no public word for it


def key_of(managed: Managed) -> str:
    """A name of an object that no object of another kind has."""
    return f"{managed._wsdlName}:{managed._moId}"  # noqa: SLF001 - as above
