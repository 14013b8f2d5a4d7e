"""Objects in a stream of images: found, followed, found again when lost; and the page that shows it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.compile_time import working_time
from coop_edge.cli.frames import Shot
from coop_edge.errors import InputError
from coop_edge.estimator import Estimator
from coop_edge.types import Camera, PoseEstimate


class LiveFrame(NamedTuple):
    """One frame: a result per object, in the order in which they were registered.

    Attributes:
        ms: of this frame's poses.
    """

    shot: Shot
    results: list[PoseEstimate]
    ms: float


def watch(estimator: Estimator, camera: Camera, frames: Iterable[Shot], every: int) -> Iterator[LiveFrame]:
    """Yield what is known of each frame.

    An object that has a pose is tracked. One that has none is looked for in the whole image, in the first frame and in
    every ``every``-th one after it was lost. Both use a frame's depth where it has one.

    Raises:
        InputError: that names the frame.
        BundleError: no features to find objects by.
        EngineError: the Estimator is closed.
    """
    names = list(estimator.objects)
    results = {name: PoseEstimate(False, "not looked for yet", object=name) for name in names}
    waited = dict.fromkeys(names, every)
    for shot in frames:
        start = working_time()
        try:
            known = [results[name] for name in names if results[name].success]
            for result in estimator.track(shot.image, camera, known, **shot.measured):
                results[result.object] = result
            lost = [name for name in names if not results[name].success]
            sought = [name for name in lost if waited[name] >= every]
            if sought:
                for result in estimator.find(shot.image, camera, sought, **shot.measured):
                    results[result.object] = result
        except InputError as error:
            raise InputError(f"frame {shot.name}: {error}") from None
        for name in names:
            waited[name] = 1 if name in sought or results[name].success else waited[name] + 1
        yield LiveFrame(shot, [results[name] for name in names], 1e3 * (working_time() - start))


class LiveDisplay:
    """Shows frames on the page of a viser server: the picture with its poses, and a line for each object."""

    def __init__(self, server: Any) -> None:
        self._server = server
        server.gui.configure_theme(control_width="medium", show_logo=False, show_share_button=False)
        self._said = server.gui.add_markdown("Waiting for the first frame.")
        self._picture: Any = None

    def show(self, picture: NDArray[np.uint8], results: Sequence[PoseEstimate], ms: float) -> None:
        """Show a frame.

        Args:
            picture: with the poses drawn over it.
        """
        if self._picture is None:
            height, width = picture.shape[:2]
            self._server.scene.set_up_direction("-y")
            self._picture = self._server.scene.add_image("/frame", picture, width / height, 1.0, position=(0, 0, 1.25))
            for client in self._server.get_clients().values():
                self._look(client)
            self._server.on_client_connect(self._look)
        self._picture.image = picture
        lines = [f"**{ms:.0f} ms**"]
        for result in results:
            state = f"score {result.score:.2f}" if result.success else result.reason
            lines.append(f"**{html.escape(result.object)}**: {html.escape(state)}")
        self._said.content = "  \n".join(lines)

    def _look(self, client: Any) -> None:
        client.camera.up_direction = (0.0, -1.0, 0.0)
        client.camera.position = (0.0, 0.0, 0.0)
        client.camera.look_at = (0.0, 0.0, 1.25)
        client.camera.fov = 0.9
