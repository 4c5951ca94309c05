"""Consoles that outlive their reader: a closed pipe silences them and stops nothing."""

from __future__ import annotations

import os

from rich.console import Console


class Screen(Console):
    """A Rich console whose broken pipe does not end the program, as Rich's own would."""

    def on_broken_pipe(self) -> None:
        """Fall silent; what is still in the buffers goes to the null device at exit."""
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())
        os.close(null)


class ProgressScreen(Screen):
    """A console that falls silent where it cannot be written to at all: a full disk, say."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            self.on_broken_pipe()


def progress_screen() -> Screen:
    """Return the console of standard error, where progress and notices go."""
    return ProgressScreen(stderr=True, highlight=False)


def summary_screen() -> Screen:
    """Return the console of standard output, 80 columns wide where it is no terminal."""
    screen = Screen(highlight=False)
    return screen if screen.is_terminal else Screen(highlight=False, width=80)
