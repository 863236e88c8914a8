"""The commands of docs/vsphere.md that can be tried without a vCenter."""

import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "vsphere.md"


def test_the_password_is_always_one_that_vcenters_default_policy_takes() -> None:
    (line,) = (line for line in PAGE.read_text().splitlines() if line.endswith(">/etc/forkyard/vcenter.password"))
    command = line.partition(" >/etc/")[0]
    for _ in range(50):
        made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        password = made.stdout.removesuffix("\n")
        assert 8 <= len(password) <= 20
        assert not re.search(r"(.)\1", password, re.IGNORECASE)
        assert all(re.search(kind, password) for kind in ("[A-Z]", "[a-z]", "[0-9]", "[^A-Za-z0-9]"))
