"""The 3-D side of the page: the image on its plane, the camera, the objects, and the handles that move one of them.

The world is the camera's frame: x right, y down, z forward, metres. The image stands upright at a distance behind all
objects, so that from the camera's place it is the image, with every object in front of the pixels that show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from coop_edge.types import Camera
from coop_edge.view.cloud import cloud
from coop_edge.view.session import Session
from coop_edge.visual.overlay import COLORS

Box = tuple[float, float, float, float]

_SIGMAS = 10.0
"""Standard deviations of the covariance's ellipsoid: one of a good pose, less than a millimetre, would not be seen."""


class PoseScene:
    """Shows a session in the scene of a viser server.

    Args:
        moved: called with T_camera_object when handles are let go.
    """

    def __init__(self, server: Any, session: Session, moved: Callable[[NDArray[np.float64]], None]) -> None:
        import viser.transforms

        self._turns, self._server, self._session, self._moved = viser.transforms, server, session, moved
        self._handles: dict[str, Any] = {}
        self.meshes_shown = False
        server.scene.set_up_direction("-y")

    def refresh(self) -> None:
        """Show the session as it is now."""
        session, scene = self._session, self._server.scene
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self.distance = self._plane_distance()
        camera, d = session.camera, self.distance
        middle = (np.array(camera.size) - 1.0) / 2.0
        x, y = (middle - camera.K[:2, 2]) * d / np.diag(camera.K)[:2]
        width, height = np.array(camera.size) * d / np.diag(camera.K)[:2]
        self._keep(
            "image",
            scene.add_image(
                "/image", session.overlay(), width, height, jpeg_quality=92, position=(x, y, d), cast_shadow=False,
                receive_shadow=False,
            ),
        )  # fmt: skip
        fov = 2.0 * math.atan(0.5 * camera.height / camera.K[1, 1])
        frustum = scene.add_camera_frustum(
            "/camera", fov, camera.width / camera.height, scale=0.1 * d, thickness=0.002 * d
        )
        frustum.visible = self.meshes_shown  # from its own place it is in the way
        self._keep("camera", frustum)
        for i, item in enumerate(session.items):
            if item.T is not None:
                mesh = session.estimator.objects[item.name]
                self._keep(f"mesh {i}", self._mesh(f"/objects/{i}", mesh, item.T, COLORS[i % len(COLORS)]))
                if item.result.covariance is not None:
                    self._keep(
                        f"covariance {i}", self._ellipsoid(f"/covariance/{i}", item.T, mesh, item.result.covariance)
                    )
        if session.depth_m is not None:
            points, colors = cloud(session.image, session.depth_m, camera, self.distance)
            self._keep(
                "cloud",
                scene.add_point_cloud(
                    "/depth", points, colors, point_size=1.5 * d / camera.K[0, 0], point_shape="square",
                    point_shading="flat", precision="float32", visible=self.meshes_shown,
                ),
            )  # fmt: skip
        self._add_controls()

    def show_meshes(self, shown: bool) -> None:
        """Show or hide what is in front of the image."""
        self.meshes_shown = shown
        for name, handle in self._handles.items():
            if name.startswith(("mesh", "covariance", "camera", "cloud")):
                handle.visible = shown

    def look_from_camera(self, client: Any) -> None:
        """Put a client's view where the camera is, so that it sees the whole image."""
        camera, view = self._session.camera, client.camera
        half = np.maximum(camera.K[:2, 2] + 0.5, np.array(camera.size) - 0.5 - camera.K[:2, 2])
        half = half / np.diag(camera.K)[:2]
        tangent = 1.02 * max(float(half[1]), float(half[0]) / max(float(view.aspect), 1e-3))
        view.up_direction = (0.0, -1.0, 0.0)
        view.position = (0.0, 0.0, 0.0)
        view.look_at = (0.0, 0.0, self.distance)
        view.near, view.far = 0.01 * self.distance, 100.0 * self.distance
        view.fov = 2.0 * math.atan(tangent)

    def look_from_aside(self, client: Any) -> None:
        """Put a client's view above and beside the camera, so that it sees camera, objects and image."""
        d, view = self.distance, client.camera
        view.up_direction = (0.0, -1.0, 0.0)
        view.position = (-0.8 * d, -0.6 * d, -0.3 * d)
        view.look_at = (0.0, 0.0, 0.6 * d)
        view.fov = math.radians(60.0)

    def image_box(self, event: Any) -> Box | None:
        """Return the box (x, y, width, height), pixels, of what was drawn on the screen; None beside the image."""
        view, camera = event.client.camera, self._session.camera
        corners = np.array([event.screen_min, event.screen_max], np.float64)
        pixels = screen_to_pixels(corners, view.wxyz, view.position, view.fov, view.aspect, self.distance, camera)
        low = np.clip(pixels.min(axis=0), -0.5, np.array(camera.size) - 0.5) + 0.5
        high = np.clip(pixels.max(axis=0), -0.5, np.array(camera.size) - 0.5) + 0.5
        size = high - low
        if not np.isfinite(size).all() or size.min() < 4.0:
            return None
        return float(low[0]), float(low[1]), float(size[0]), float(size[1])

    def _keep(self, name: str, handle: Any) -> None:
        self._handles[name] = handle

    def _plane_distance(self) -> float:
        """Return how far from the camera the image stands, metres: behind every object; without any behind what depth
        knows, and 1 without that."""
        session, reach = self._session, [0.5]
        for item in session.items:
            if item.T is not None:
                mesh = session.estimator.objects[item.name]
                reach.append(float(se3.transform(item.T, mesh.centre[None])[0, 2]) + 0.6 * mesh.diameter)
        if len(reach) > 1:
            return 1.3 * max(reach)
        known = session.depth_m[session.depth_m > 0] if session.depth_m is not None else np.empty(0)
        return float(np.quantile(known, 0.95)) if known.size else 1.0

    def _wxyz(self, R: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._turns.SO3.from_matrix(R).wxyz)

    def _mesh(self, name: str, mesh: Mesh, T: NDArray[np.float64], color: tuple[int, int, int]) -> Any:
        return self._server.scene.add_mesh_simple(
            name, mesh.vertices + mesh.centre.astype(np.float32), mesh.faces, color=color, opacity=0.55,
            flat_shading=True, side="double", wxyz=self._wxyz(T[:3, :3]), position=T[:3, 3], visible=self.meshes_shown,
        )  # fmt: skip

    def _ellipsoid(self, name: str, T: NDArray[np.float64], mesh: Mesh, covariance: NDArray[np.float64]) -> Any:
        values, axes = np.linalg.eigh(centre_covariance(T, mesh, covariance))
        axes[:, 0] *= np.sign(np.linalg.det(axes))
        radii = _SIGMAS * np.sqrt(np.clip(values, 1e-12, None))
        centre = se3.transform(T, mesh.centre[None])[0]
        return self._server.scene.add_icosphere(
            name, 1.0, (255, 40, 40), scale=tuple(radii.tolist()), wxyz=self._wxyz(axes), position=centre,
            visible=self.meshes_shown,
        )  # fmt: skip

    def _add_controls(self) -> None:
        item = self._session.item
        if item is None or item.T is None:
            return
        mesh, T = self._session.estimator.objects[item.name], item.T
        centre = self._session.mesh_centre()
        size = 0.9 * mesh.diameter
        controls = self._server.scene.add_transform_controls(
            "/handles", size, wxyz=self._wxyz(T[:3, :3]), position=centre, depth_test=False, line_width=2.0
        )
        moved = self._handles.get(f"mesh {self._session.active}")

        def pose() -> NDArray[np.float64]:
            R = self._turns.SO3(np.asarray(controls.wxyz)).as_matrix()
            return np.asarray(se3.from_rt(R, np.asarray(controls.position) - R @ mesh.centre))

        def while_dragged(event: Any) -> None:
            if event.phase == "end":
                self._moved(pose())
            elif moved is not None:
                at = pose()
                moved.visible, moved.wxyz, moved.position = True, self._wxyz(at[:3, :3]), at[:3, 3]

        controls.on_update(while_dragged)
        self._keep("controls", controls)


def centre_covariance(T: NDArray[np.float64], mesh: Mesh, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance [3,3] of where a mesh's centre is, m^2 in camera axes.

    Args:
        T: T_camera_object [4,4].
        covariance: of the pose, [6,6], as in ``PoseEstimate``: its translation is that of the object's origin.
    """
    by_pose = np.hstack([np.eye(3), -se3.hat(T[:3, :3] @ mesh.centre)])
    return np.asarray(by_pose @ covariance @ by_pose.T)


def screen_to_pixels(
    screen: NDArray[np.float64], wxyz: Any, position: Any, fov: float, aspect: float, distance: float, camera: Camera
) -> NDArray[np.float64]:
    """Return the image pixels [N,2] that a view shows at places on the screen [N,2], in 0..1; NaN beside the plane.

    The view: R_world_view as quaternion, position, vertical field of view (radians), width over height. The image
    stands at z = ``distance``; its pixels lie on that plane as a pinhole's would, whatever the lens.
    """
    import viser.transforms

    tangent = math.tan(0.5 * fov)
    x, y = (2.0 * screen - 1.0).T * tangent * np.array([[aspect], [1.0]])
    rays = np.stack([x, y, np.ones_like(x)], axis=1) @ viser.transforms.SO3(np.asarray(wxyz)).as_matrix().T
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (distance - np.asarray(position)[2]) / rays[:, 2]
        points = np.asarray(position) + np.where(share > 0, share, np.nan)[:, None] * rays
    return np.asarray(points[:, :2] / distance * np.diag(camera.K)[:2] + camera.K[:2, 2])
