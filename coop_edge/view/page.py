"""The page: buttons and pictures beside the scene, on a viser server. Every action is one of ``Session``'s."""

from __future__ import annotations

import html
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from coop_edge.base.missing import install_extra
from coop_edge.errors import BackendUnavailable, CoopEdgeError
from coop_edge.view.pictures import agreement_picture, templates_picture, views_picture
from coop_edge.view.scene import PoseScene, centre_covariance
from coop_edge.view.session import Session

log = logging.getLogger("coop_edge")

ALL = "all objects"
"""Choice of the list of objects that ``find`` takes as every one."""
PATIENCE = 1.0
"""How long a click waits for what is being done, in seconds, before it is refused."""
_NUDGES = ("x", "y", "z", "turn x", "turn y", "turn z")


def make_server(host: str, port: int) -> Any:
    """Start a viser server.

    Raises:
        BackendUnavailable: viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise BackendUnavailable(f"the page needs viser ({error}): {install_extra('view')}") from None
    logging.getLogger("websockets.server").addFilter(_is_news)
    return viser.ViserServer(host=host, port=port, label="coop_edge", verbose=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out a trace of each connection that a browser opens ahead of need and closes unused."""
    return record.getMessage() != "opening handshake failed"


class Page:
    """The page of one session, on a running server; several browsers see the same."""

    def __init__(self, server: Any, session: Session) -> None:
        self.server, self.session = server, session
        self._turn = threading.RLock()
        self.scene = PoseScene(server, session, lambda T: self._do("moved", lambda: session.move(T)))
        server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        self._add_controls()
        self._drawing: Callable[[Any], None] | None = None
        server.scene.on_rect_select(modifier="shift")(self._on_box)
        server.on_client_connect(self._greet)
        self.refresh("  \n".join(f"**Passed over: {_safe(why)}**" for why in session.passed_over))

    def _greet(self, client: Any) -> None:
        """Show a new browser the whole image, and again whenever its window changes shape."""
        shape = 0.0

        def fit(_: Any = None) -> None:
            nonlocal shape
            if not self.scene.meshes_shown and abs(client.camera.aspect - shape) > 1e-3:
                shape = client.camera.aspect
                self.scene.look_from_camera(client)

        fit()
        client.camera.on_update(fit)

    def refresh(self, said: str = "") -> None:
        """Show the session as it is now, and what was just done."""
        with self._turn:
            session, item = self.session, self.session.item
            self.scene.refresh()
            self._where.content = f"**{_safe(session.name)}** ({session.index + 1} of {len(session.pictures)})"
            self._said.content = said
            names = [self._item_name(i) for i in range(len(session.items))] or ["none"]
            self._items.options = names
            self._items.value = names[session.active] if session.active is not None else names[0]
            self._result.content = self._describe()
            shown = item is not None and item.T is not None
            self._agreement.visible = shown
            if item is not None and item.T is not None:
                self._agreement.image = agreement_picture(
                    session.estimator, session.image, session.camera, item.name, item.T
                )

    def _add_controls(self) -> None:
        gui, session = self.server.gui, self.session
        self._where, self._said = gui.add_markdown(""), gui.add_markdown("")
        names = list(session.estimator.objects)
        self._object = gui.add_dropdown("Object", (*names, ALL) if len(names) > 1 else tuple(names))
        self._button("Draw a box", self._draw_a_box, "Then drag over the object in the image; or shift and drag.")
        self._button("Find", self._find, "Look for the object in the whole image, without a box.")
        self._items = gui.add_dropdown("In this image", ("none",))
        self._items.on_update(self._choose)
        self._result = gui.add_markdown("")
        self._button("Refine from here", lambda: session.refine())
        self._button(
            "Accept",
            lambda: session.accept(),
            "Write all poses of this image to the labels, or, without any, that it shows no object.",
        )
        self._button("Remove", lambda: session.remove())
        self._button("Undo", lambda: session.undo())
        with gui.add_folder("Nudge"):
            self._step_mm = gui.add_number("Step (mm)", 2.0, min=0.01, step=0.1)
            self._step_deg = gui.add_number("Step (degrees)", 2.0, min=0.01, step=0.1)
            for axis, name in enumerate(_NUDGES):
                group = gui.add_button_group(name, ("-", "+"))
                group.on_click(lambda event, axis=axis: self._nudge(axis, event.target.value))
        with gui.add_folder("Images"):
            self._button("Next", lambda: self._leave(lambda: session.step(1)))
            self._button("Previous", lambda: self._leave(lambda: session.step(-1)))
            self._button(
                "Track to the next",
                lambda: self._leave(lambda: session.follow()),
                "Track the objects that have a pose here into the next image.",
            )
        with gui.add_folder("View"):
            gui.add_button("From the camera").on_click(lambda event: self._look(event, from_camera=True))
            gui.add_button("From aside").on_click(lambda event: self._look(event, from_camera=False))
        with gui.add_folder("Image and render"):
            self._agreement = gui.add_image(session.image[:8, :8], visible=False)
        with gui.add_folder("Templates and similar views", expand_by_default=False):
            self._sheet = gui.add_image(session.image[:8, :8], visible=False)
            self._button("Templates", self._show_templates)
            self._button("Similar views", self._show_views, "The views of the object that look most like the last box.")

    def _button(self, label: str, action: Callable[[], Any], hint: str | None = None) -> None:
        self.server.gui.add_button(label, hint=hint).on_click(lambda _: self._do(label, action))

    def _do(self, label: str, action: Callable[[], Any]) -> None:
        """Do one thing at a time, and show what came of it; an error is shown as it is on the command line.

        A click while something quick is being done waits its turn; while something long is being done, it is refused.
        """
        if not self._turn.acquire(timeout=PATIENCE):
            self._said.content = "*Busy: wait for what is being done.*"
            return
        try:
            self._said.content = f"*{label} ...*"
            try:
                said = action()
                self.refresh(said if isinstance(said, str) else f"*{label}: done*")
            except (CoopEdgeError, OSError) as error:
                self.refresh(f"**{_safe(str(error))}**")
            except Exception as error:  # a bug: the page goes on, and the terminal has the trace
                log.exception("the page: %s", label)
                self.refresh(f"**{type(error).__name__}: {_safe(str(error))}**")
        finally:
            self._turn.release()

    def _draw_a_box(self) -> str:
        if self._drawing is None:
            self._drawing = self._on_box
            self.server.scene.on_rect_select()(self._drawing)
        return "**Drag a box over the object.**"

    def _stop_drawing(self) -> None:
        if self._drawing is not None:
            self.server.scene.remove_rect_select_callback(self._drawing)
            self._drawing = None
            self.server.scene.on_rect_select(modifier="shift")(self._on_box)

    def _on_box(self, event: Any) -> None:
        box = self.scene.image_box(event)
        self._stop_drawing()
        if box is None:
            self._said.content = "**That box lies beside the image; look from the camera and draw it again.**"
        else:
            self._do("Estimate", lambda: self._estimated(box))

    def _estimated(self, box: tuple[float, float, float, float]) -> str:
        names = list(self.session.estimator.objects)
        if self._object.value == ALL:
            return "**Choose which object the box is of.**"
        name = self._object.value if self._object.value in names else names[0]
        result = self.session.estimate(name, box).result
        return "*Estimated*" if result.success else f"**Not found: {_safe(result.reason)}**"

    def _leave(self, go: Callable[[], None]) -> str | None:
        """Go to another image, and say what is not accepted in the one that is left."""
        name = self.session.name
        go()
        said = [f"**Passed over: {_safe(why)}**" for why in self.session.passed_over]
        if count := self.session.unaccepted().get(name):
            poses = "1 pose is" if count == 1 else f"{count} poses are"
            said.append(f"**{_safe(name)}: {poses} not accepted yet, and kept there until the page is closed.**")
        return "  \n".join(said) or None

    def _find(self) -> str:
        name = None if self._object.value == ALL else self._object.value
        found = [item for item in self.session.find(name) if item.T is not None]
        return f"*Found {len(found)}*" if found else "**Nothing found; draw a box**"

    def _nudge(self, axis: int, direction: str) -> None:
        step = 1e-3 * self._step_mm.value if axis < 3 else math.radians(self._step_deg.value)
        self._do("Nudge", lambda: self.session.nudge(axis, step if direction == "+" else -step))

    def _choose(self, event: Any) -> None:
        if event.client is None:  # set by the program, not by a person
            return
        names = [self._item_name(i) for i in range(len(self.session.items))]
        if self._items.value in names:
            self.session.active = names.index(self._items.value)
            self.refresh()

    def _look(self, event: Any, *, from_camera: bool) -> None:
        self.scene.show_meshes(not from_camera)
        look = self.scene.look_from_camera if from_camera else self.scene.look_from_aside
        look(event.client)

    def _show_templates(self) -> str:
        session, name = self.session, self._object.value
        if name == ALL:
            return "**Choose which object's templates to show.**"
        self._show_sheet(templates_picture(session.estimator.objects[name], session.estimator.backend.renderer))
        return f"*The 42 templates of {_safe(name)}*"

    def _show_views(self) -> str:
        session, item = self.session, self.session.item
        if item is None or item.detection is None:
            return "**Draw a box first: views are those that look like it.**"
        sheet = views_picture(session.estimator, session.image, session.camera, item.detection)
        if sheet is None:
            return "**These engines have no features, and retrieve no views.**"
        self._show_sheet(sheet)
        return "*The views that look most like the box, with their similarity*"

    def _show_sheet(self, sheet: Any) -> None:
        self._sheet.image, self._sheet.visible = sheet, True

    def _item_name(self, index: int) -> str:
        item = self.session.items[index]
        state = (
            "accepted" if item.accepted else "moved" if item.moved else "found" if item.T is not None else "not found"
        )
        return f"{index + 1} {item.name} ({state})"

    def _describe(self) -> str:
        item = self.session.item
        if item is None:
            return "Nothing yet: draw a box, or find."
        result = item.result
        if item.T is None:
            return f"**{_safe(item.name)}: not found.** {_safe(result.reason)}"
        x, y, z = (f"{1e3 * value:.1f}" for value in item.T[:3, 3])
        lines = [f"**{_safe(item.name)}**, score {result.score:.2f}", f"x, y, z: {x}, {y}, {z} mm"]
        if result.reprojection_rms_px is not None:
            lines.append(f"{result.n_inliers} inliers, {result.reprojection_rms_px:.2f} px rms")
        if result.covariance is not None:
            spread = centre_covariance(item.T, self.session.estimator.objects[item.name], result.covariance)
            sigma = ", ".join(f"{1e3 * value:.1f}" for value in np.sqrt(np.diag(spread)))
            lines.append(f"centre ± {sigma} mm (standard deviations along x, y, z)")
        if self.session.depth_m is not None and not item.accepted:
            lines.append(
                "with depth" if result.used_depth else "from the colour image: too little depth is known there"
            )
        if (times := result.times) is not None:
            lines.append(f"{times.total_ms:.0f} ms (coarse {times.coarse_ms:.0f}, refine {times.refine_ms:.0f})")
        return "  \n".join(lines)


def _safe(text: str) -> str:
    """Text as Markdown shows it literally."""
    return html.escape(text).replace("*", "&#42;").replace("_", "&#95;")
