"""vSphere: Instant Clone through vCenter; the only package that speaks pyVmomi. Its driver is in `driver`."""
