"""Runs a Markdown lesson: its marked blocks, in order, in one folder, as a reader would type them.

An HTML comment before a fenced block says what to do with it; unmarked blocks are for reading only.

``<!-- run -->``
    Run it (``bash`` or ``python``), and expect exit status 0.
``<!-- run: until "text" -->``
    Start it in the background, and wait until it prints the text. It is ended, by SIGTERM, with the lesson.
``<!-- file: NAME -->``
    Write it to a file.
``<!-- expect -->``
    What the block before printed. Each line must be found there, in this order; ``…`` stands for anything.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND_S = 300.0

_BLOCK = re.compile(r"^<!-- (?P<directive>[^\n]+?) -->\n+```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One marked block; ``line`` is where it begins in the file."""

    line: int
    directive: str
    language: str
    text: str


def blocks(markdown: str) -> list[Block]:
    """The marked blocks, in order."""
    return [
        Block(markdown[: match.start()].count("\n") + 1, match["directive"], match["language"], match["text"])
        for match in _BLOCK.finditer(markdown)
    ]


class Lesson:
    """Runs blocks in ``folder``, with ``environment``, after replacing words by ``replacements``."""

    def __init__(self, folder: Path, environment: Mapping[str, str], replacements: Mapping[str, str]) -> None:
        self.folder = folder
        # Little else of this process' environment: no keys of the reader's own. COVERAGE_* measures what is started.
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"PATH": path, **measured, **environment}
        self._replacements = replacements
        self._background: list[_Background] = []
        self._printed = ""

    def take(self, block: Block) -> None:
        """Do what the block's directive says. Raises AssertionError, which names the line."""
        text = self._replaced(block.text)
        where = f"line {block.line}"
        verb, _, rest = block.directive.partition(": ")
        if verb == "file":
            (self.folder / rest).write_text(text)
        elif verb == "expect":
            self._expect(text, where)
        elif verb == "run" and rest.startswith("until "):
            process = _Background(_command(block.language, text), self.folder, self.environment)
            self._background.append(process)
            self._printed = process.wait_for(self._replaced(rest[len("until ") :].strip('"')), where)
        elif verb == "run":
            done = subprocess.run(
                _command(block.language, text),
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_S,
            )
            self._printed = done.stdout
            assert done.returncode == 0, f"{where} exited with {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}"
        else:
            raise AssertionError(f"{where}: unknown directive {block.directive!r}")

    def end(self) -> dict[str, int]:
        """End what runs in the background, the latest first; the exit status of each command."""
        return {process.name: process.end() for process in reversed(self._background)}

    def _replaced(self, text: str) -> str:
        for word, replacement in self._replacements.items():
            text = text.replace(word, replacement)
        return text

    def _expect(self, text: str, where: str) -> None:
        position = 0
        for line in filter(str.strip, text.splitlines()):
            pattern = ".*?".join(re.escape(part) for part in line.strip().split("…"))
            found = re.compile(pattern).search(self._printed, position)
            assert found, f"{where}: expected, after what came before it: {line}\nprinted was:\n{self._printed}"
            position = found.end()


def _command(language: str, text: str) -> list[str]:
    if language == "python":
        return [sys.executable, "-c", text]
    return ["bash", "-euo", "pipefail", "-c", text]


class _Background:
    """A process whose output is read as it comes."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = command[-1].strip()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._printed = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self._printed += line
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def wait_for(self, text: str, where: str) -> str:
        """All that was printed once ``text`` is in it."""
        with self._more:
            self._more.wait_for(lambda: text in self._printed or not self._reader.is_alive(), COMMAND_S)
            assert text in self._printed, f"{where}: `{self.name}` never printed {text!r}; it printed:\n{self._printed}"
            return self._printed

    def end(self) -> int:
        """SIGTERM to the command and what it started; its exit status."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(COMMAND_S)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reader.join()
