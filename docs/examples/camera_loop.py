"""Camera loop: objects are estimated once and then followed. python camera_loop.py [0 | VIDEO | frames/%04d.png]"""

import sys

import cv2

from coop_edge import Estimator
from coop_edge.demo import load_scene


def frames(source):
    """RGB images of a camera (its number), a video, or numbered pictures."""
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    while (read := capture.read())[0]:
        yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)


def follow(estimator, images, camera, detect, depths=None, unit=None, results=()):
    """Yield the poses in each image. `detect(image)` is asked while something is lost. depths: one per image."""
    for image in images:
        depth = (next(depths), unit) if depths else ()
        results = estimator.track(image, camera, results, *depth)
        if not results or not all(result.success for result in results):
            results = estimator.estimate(image, camera, detect(image), *depth)
        yield results


def main(source=None, engines="coop-xs"):
    scene = load_scene()  # in its place: your meshes, the intrinsics of your camera, and what your detector finds
    images = frames(source) if source else [scene.image] * 5
    with Estimator.from_engines(engines) as estimator:
        for name, (mesh, unit) in scene.meshes.items():
            estimator.add_object(name, mesh, unit=unit)
        estimator.warmup()
        for results in follow(estimator, images, scene.camera, lambda image: scene.detections):
            print(*(f"{r.object}: {r.T_camera_object[:3, 3] if r.success else r.reason}" for r in results), sep="; ")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
