"""Let Hydra read config files through our reader, which names file and line of mistakes.

Importing this module imports Hydra.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

from chronorun.config.yaml_files import read_yaml


class FileConfigSource(file_config_source.FileConfigSource):
    """Replacement of Hydra's ``file://`` source; Hydra identifies sources by class name."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's content and header. Raises UserError naming file and line."""
        name = self._normalize_file_name(config_path)
        full = Path(self.path, name)
        if not full.exists():
            raise ConfigLoadError(f"Config not found : {full}")
        header, config = read_yaml(full)
        return ConfigResult(
            config=config,
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=header,
        )


def install() -> None:
    """Let Hydra read config files through this source; may be called again."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
