"""Makes what TensorRT calls back while it works: a logger and a progress monitor, of the classes of its module."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger("coop_edge.tensorrt")

_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING, "INFO": logging.INFO}


class Progress(Protocol):
    """Is told how a build proceeds, possibly from several threads."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase of ``steps`` steps inside ``parent`` (None = the outermost)."""

    def step(self, phase: str, step: int) -> bool:
        """Note that step number ``step`` is done; return False to stop the build."""

    def finish(self, phase: str) -> None:
        """End the phase."""


def make_logger(trt: Any) -> Any:
    """Make a logger that passes TensorRT's messages to ``logging`` and keeps the last errors for exceptions.

    An exception (Ctrl-C, say) must not cross TensorRT's C++ on its way up: what the callbacks of a build raise is kept
    here, the build is told to stop, and it is raised once the build has returned.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.restart()

        def restart(self) -> None:
            self.errors: deque[str] = deque(maxlen=4)
            self.raised: BaseException | None = None

        def log(self, severity: Any, message: str) -> None:
            self.guarded(self._log, severity.name, message)

        def guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return call(*arguments)
            except BaseException as error:
                self.raised = self.raised or error
                return False

        def _log(self, severity: str, message: str) -> None:
            level = _LEVELS.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(message.strip())
            log.log(level, "%s", message)

    return Logger()


def make_monitor(trt: Any, logger: Any, progress: Progress | None) -> Any:
    """Make a monitor that passes a build's progress on, and stops it if ``progress`` says so or anything was raised."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if progress is not None:
                logger.guarded(progress.start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            go_on = progress is None or logger.guarded(progress.step, phase_name, step)
            self.stopped = self.stopped or not go_on or logger.raised is not None
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            if progress is not None:
                logger.guarded(progress.finish, phase_name)

    return Monitor()
