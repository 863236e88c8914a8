"""forkyard.toml as it is at this moment: a resident command obeys a role that was taken away, without a restart."""

from dataclasses import replace
from pathlib import Path

from forkyard.settings import Settings, find_config, load_settings


class SettingsFile:
    """Reads the file anew when it has changed; one that is broken is an error until it is mended."""

    def __init__(self, path: Path | None, *, lab: bool = False) -> None:
        """Read *path*, or the usual one; with *lab*, Slack and the roles are the lab's."""
        self._path, self._lab = find_config(path), lab
        self._seen: tuple[int, int] | None = None
        self._settings: Settings | None = None

    def __call__(self) -> Settings:
        """The settings; raises InvalidRequest when the file is wrong."""
        stat = self._path.stat() if self._path.exists() else None
        seen = (stat.st_mtime_ns, stat.st_size) if stat is not None else None
        if self._settings is None or seen is None or seen != self._seen:
            settings = load_settings(self._path)
            if self._lab:
                from lab.chat import lab_chatops  # noqa: PLC0415 - only for the lab

                settings = replace(settings, chatops=lab_chatops(settings))
            self._settings, self._seen = settings, seen
        return self._settings
