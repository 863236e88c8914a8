"""The QEMU driver: forks VMs on this one Linux machine. `driver.QemuHypervisor` keeps the contract."""
