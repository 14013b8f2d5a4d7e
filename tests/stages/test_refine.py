"""Stage 2 with a network that knows the truth."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import AdvancedConfig, EstimatorConfig, LmConfig, RefineConfig
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.stages.flow import correspondences, in_image
from coop_edge.stages.refine import NO_START, OUT_OF_SIGHT, OUTSIDE, shifts
from tests.stages.chain import Chain
from tests.stages.oracles import Faults
from tests.stages.scene import Placed, Scene, at, reprojection_px


def perturbed(T, mesh, seed, degrees=12.0, sideways=0.05, depth=0.15):
    """The pose, turned about the mesh's centre and moved, in shares of the diameter."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = se3.so3_exp(np.radians(degrees) * axis / np.linalg.norm(axis))
    centre = T[:3, :3] @ mesh.centre + T[:3, 3]
    centre = centre + mesh.diameter * rng.choice([-1, 1], 3) * (sideways, sideways, depth)
    R = turn @ T[:3, :3]
    return se3.from_rt(R, centre - R @ mesh.centre)


def starts(scene, seeds):
    """Perturbed poses of all that stands in the scene, and the indices of their meshes."""
    T = [perturbed(p.T, scene.meshes[p.mesh], s) for s in seeds for p in scene.placed]
    return np.array(T), np.array([p.mesh for _ in seeds for p in scene.placed])


def errors_px(scene, T, seeds):
    placed = [p for _ in seeds for p in scene.placed]
    return np.array(
        [reprojection_px(t, p.T, scene.meshes[p.mesh], scene.camera.K) for t, p in zip(T, placed, strict=True)]
    )


def test_no_hypotheses(two):
    refined = Chain.of(two).refine(np.zeros((0, 4, 4)), np.zeros(0, int))
    assert len(refined) == 0
    assert refined.ok.shape == (0,)
    assert refined.weight.shape[0] == 0


def test_poses_are_recovered_on_real_renders(two):
    seeds = range(6)
    T, index = starts(two, seeds)
    assert errors_px(two, T, seeds).min() > 5.0
    refined = Chain.of(two).refine(T, index)
    assert refined.ok.all()
    assert errors_px(two, refined.T_camera_object, seeds).max() < 0.1
    assert (refined.iterations <= 5).all()
    se3.check_transform(refined.T_camera_object, tolerance=1e-9)


def test_noise_and_outliers_in_the_flow(two):
    """A pixel of noise, averaged over hundreds of cells; the robust loss takes care of the outliers."""
    seeds = range(4)
    config = EstimatorConfig(advanced=AdvancedConfig(lm=LmConfig(loss="cauchy")))
    T, index = starts(two, seeds)
    noisy = Chain.of(two, faults=Faults(flow_noise=1.0)).refine(T, index)
    assert errors_px(two, noisy.T_camera_object, seeds).max() < 1.0
    wild = Chain.of(two, faults=Faults(flow_noise=1.0, flow_outliers=0.2), config=config).refine(T, index)
    assert errors_px(two, wild.T_camera_object, seeds).max() < 1.5


def test_what_hides_an_object_does_not_pull_its_pose(cube, bar):
    before = Placed(1, at(0.0, 0.02, 0.45, (0.0, 0.0, 0.5), bar.centre))
    scene = Scene((cube, bar), (Placed(0, at(0.01, 0.0, 0.6, (0.5, 0.7, -0.3))), before))
    start = perturbed(scene.placed[0].T, cube, 3)[None]
    refined = Chain.of(scene).refine(start, np.array([0]))
    assert reprojection_px(refined.T_camera_object[0], scene.placed[0].T, cube, scene.camera.K) < 0.1
    shown = (refined.agreement[0] > 0.5).sum() / refined.silhouette[0].sum()
    assert 0.3 < shown < 0.75


def test_no_iterations_return_the_start(two):
    chain = Chain.of(two, config=EstimatorConfig(refine=RefineConfig(iterations=0)))
    T, index = starts(two, [0])
    refined = chain.refine(T, index)
    np.testing.assert_array_equal(refined.T_camera_object, T)
    assert refined.ok.all()
    assert refined.weight.shape == (2, 0)


def test_a_hypothesis_stops_when_it_hardly_moves(two):
    T, index = starts(two, [0])
    T[1] = two.placed[1].T
    chain = Chain.of(two)
    refined = chain.refine(T, index)
    assert refined.iterations[1] == 1
    assert 1 < refined.iterations[0] < 5
    assert (refined.shift_px < chain.config.advanced.refine.stop_px * chain.oracle.size / REFERENCE_SIZE).all()
    every = Chain.of(two, config=EstimatorConfig().updated(["advanced.refine.stop_px=0"]))
    assert every.refine(T, index).iterations.tolist() == [5, 5]
    lenient = EstimatorConfig().updated(["advanced.refine.stop_px=1000", "advanced.refine.stop_diameter=10"])
    far = Chain.of(two, config=lenient)
    assert far.refine(T, index).iterations.tolist() == [1, 1]


def test_micro_batches_change_nothing(two):
    T, index = starts(two, range(3))
    whole = Chain.of(two).refine(T, index)
    chain = Chain.of(two, config=EstimatorConfig().updated(["advanced.refine.micro_batch=4"]))
    parts = chain.refine(T, index)
    assert max(chain.oracle.refiner.batches) == 4
    np.testing.assert_array_equal(whole.T_camera_object, parts.T_camera_object)


@pytest.mark.parametrize(
    ("T", "reason"),
    [
        (np.full((4, 4), np.nan), NO_START),
        (at(0, 0, -0.6), OUT_OF_SIGHT),
        (at(0, 0, 0.05), OUT_OF_SIGHT),
        (at(4.0, 0, 0.6), OUT_OF_SIGHT),
        (at(0.6, 0, 0.6), OUTSIDE),
        (at(0, -0.5, 0.6), OUTSIDE),
    ],
)
def test_what_cannot_be_compared_fails_with_a_reason_and_leaves_the_others_alone(two, T, reason):
    good, index = starts(two, [0])
    alone = Chain.of(two).refine(good, index)
    both = Chain.of(two).refine(np.concatenate([good[:1], T[None], good[1:]]), np.array([0, 0, 1]))
    assert both.reasons == ("", reason, "")
    assert np.isnan(both.T_camera_object[1]).all()
    assert np.isnan(both.covariance[1]).all()
    np.testing.assert_array_equal(both.T_camera_object[[0, 2]], alone.T_camera_object)
    np.testing.assert_array_equal(both.residual_px[[0, 2]], alone.residual_px)


@pytest.mark.parametrize("among", [0, 1, 2])
def test_a_hidden_hypothesis_costs_the_others_no_second_render(two, among):
    """Nor does it change them: the rows that go on are those rendered already."""
    T, index = np.insert(starts(two, [0])[0], among, at(0.6, 0, 0.6), axis=0), np.insert([0, 1], among, 0)
    chain = Chain.of(two, config=EstimatorConfig(refine=RefineConfig(iterations=1)))
    renders, see = [], chain.oracle.see_renders

    def counting(result, index):
        renders.append(len(index))
        see(result, index)

    chain.oracle.see_renders = counting
    refined = chain.refine(T, index)
    assert renders == [3]
    assert chain.oracle.refiner.batches == [2]
    assert [i for i, reason in enumerate(refined.reasons) if reason == OUTSIDE] == [among]
    kept = np.delete(np.arange(3), among)
    alone = chain.refine(T[kept], index[kept])
    for name in ("T_camera_object", "covariance", "residual_px", "weight", "image_px", "shift_px"):
        np.testing.assert_array_equal(getattr(refined, name)[kept], getattr(alone, name), err_msg=name)


def test_pairs_at_rows_are_the_pairs_made_of_these_alone(two):
    T, index = starts(two, [0, 1])
    maker, rows = Chain.of(two).maker(), np.array([3, 0])
    taken, made = maker.make(T, index).take(rows), maker.make(T[rows], index[rows])
    for name in ("query", "render", "depth", "T_crop_object", "centre", "diameter", "image_px"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(made, name), err_msg=name)
    for name in ("K", "R_crop_camera", "H", "size"):
        np.testing.assert_array_equal(getattr(taken.crop, name), getattr(made.crop, name), err_msg=name)
    assert len(taken) == 2


def test_all_of_them_outside_of_the_image(two):
    chain = Chain.of(two)
    refined = chain.refine(np.array([at(0.6, 0, 0.6), at(-0.7, 0, 0.6)]), np.array([0, 1]))
    assert refined.reasons == (OUTSIDE, OUTSIDE)
    assert chain.oracle.refiner.batches == []  # no network was asked


def test_nothing_visible_fails(two):
    refined = Chain.of(two, faults=Faults(certainty=0.0)).refine(two.placed[0].T[None], np.array([0]))
    assert refined.reasons == ("refine: too few valid correspondences",)


def test_an_object_cut_by_the_image_is_judged_by_what_is_inside(cube):
    scene = Scene((cube,), (Placed(0, at(0.32, 0.0, 0.6, (0.5, 0.7, -0.3))),))
    start = perturbed(scene.placed[0].T, cube, 1, degrees=5.0, sideways=0.02, depth=0.05)[None]
    chain = Chain.of(scene)
    refined = chain.refine(start, np.array([0]))
    assert reprojection_px(refined.T_camera_object[0], scene.placed[0].T, cube, scene.camera.K) < 0.1
    pairs = chain.maker().make(refined.T_camera_object, np.array([0]))
    points, cells = pairs.cells(4)
    inside = in_image(pairs, cells)
    want = pairs.crop.pixels_to_image(cells[None])[0]
    want = ((want >= -0.5) & (want < np.array([639.5, 479.5]))).all(axis=1)
    np.testing.assert_array_equal(inside[0], want)
    assert 0.1 < want.mean() < 0.9
    assert points.shape == (1, 1024, 3)


def test_a_turned_pair_shows_the_same_turned(two):
    """A quarter turn maps pixels onto pixels: the render is the upright one turned, and so is the crop, resampled."""
    maker, T, index = Chain.of(two).maker(), two.placed[0].T[None], np.array([two.placed[0].mesh])
    upright, turned = maker.make(T, index), maker.make(T, index, np.pi / 2)
    for name in ("render", "query"):
        seen, wanted = (getattr(pairs, name)[0] for pairs in (turned, upright))
        options = [np.rot90(wanted, k, axes=(1, 2)) for k in (1, -1)]
        errors = [np.abs(seen - option).mean() for option in options]
        assert min(errors) < 0.01
        assert max(errors) > 0.03
    np.testing.assert_allclose(turned.crop.to_camera(turned.T_crop_object), T, atol=1e-12)


def test_cells_stand_for_the_pixels_of_the_contract(two):
    """Cell (i, j) is rendered pixel (stride j + stride // 2, stride i + stride // 2)."""
    pairs = Chain.of(two).maker().make(two.placed[0].T[None], np.array([0]))
    points, cells = pairs.cells(4)
    assert cells[0].tolist() == [2, 2]
    assert cells[1].tolist() == [6, 2]
    assert cells[32].tolist() == [2, 6]
    on = np.isfinite(points[0, :, 0])
    np.testing.assert_allclose(
        project(pairs.crop.K, se3.transform(pairs.T_crop_object, points))[0][on], cells[on], atol=1e-3
    )
    depth = pairs.depth[0, cells[:, 1].astype(int), cells[:, 0].astype(int)]
    np.testing.assert_array_equal(on, depth > 0)


def test_the_confidence_is_certainty_times_sensitivity_times_flow_probability(two):
    pairs = Chain.of(two).maker().make(two.placed[0].T[None], np.array([0]))
    points, cells = pairs.cells(4)
    rng = np.random.default_rng(0)
    outputs = {
        n: rng.uniform(0.3, 1.0, (1, 1, 32, 32)).astype(np.float32) for n in ("scale", "certainty", "sensitivity")
    }
    outputs["flow"] = rng.normal(0, 2, (1, 2, 32, 32)).astype(np.float32)
    found = correspondences(pairs, outputs, points, cells, 2.0)
    on = np.isfinite(points[0, :, 0])
    row, column = 13, 17
    i = 32 * row + column
    assert on[i]
    at_cell = {name: array[0, :, row, column] for name, array in outputs.items()}
    probability = 1 - np.exp(-2.0 / at_cell["scale"][0])
    np.testing.assert_allclose(found.agreement[0, i], at_cell["certainty"][0] * probability, rtol=1e-5)
    np.testing.assert_allclose(found.weight[0, i], found.agreement[0, i] * at_cell["sensitivity"][0], rtol=1e-5)
    np.testing.assert_allclose(found.pixels[0, i], (4 * column + 2, 4 * row + 2) + at_cell["flow"], rtol=1e-5)
    assert (found.weight[0, ~on] == 0).all()
    np.testing.assert_array_equal(found.silhouette[0], on)


def test_a_match_outside_the_image_weighs_nothing(cube):
    """However certain the network is: an object at the border, and a flow that carries half of it out."""
    scene = Scene((cube,), (Placed(0, at(0.27, 0.0, 0.6, (0.5, 0.7, -0.3))),))
    pairs = Chain.of(scene).maker().make(scene.placed[0].T[None], np.array([0]))
    points, cells = pairs.cells(4)
    ones = np.ones((1, 1, 32, 32), np.float32)
    outputs = {"scale": ones, "certainty": ones, "sensitivity": ones, "flow": 20 * np.ones((1, 2, 32, 32), np.float32)}
    found = correspondences(pairs, outputs, points, cells, 2.0)
    x = pairs.crop.pixels_to_image(cells[None] + 20.0)[0, :, 0]
    on = np.isfinite(points[0, :, 0])
    assert (found.weight[0, on & (x >= 639.5)] == 0).all()
    assert not found.visible[0, on & (x >= 639.5)].any()
    assert (found.weight[0, on & (x < 639.5)] > 0.8).all()
    assert 0.1 < (x[on] < 639.5).mean() < 0.9


def test_a_pose_that_the_solver_carries_behind_the_camera_fails(two):
    class Runaway(CpuPnpSolver):
        def weighted_lm(self, *arguments, **options):
            result = super().weighted_lm(*arguments, **options)
            if len(result.T_camera_object) == 2:  # the first iteration
                result.T_camera_object[0, 2, 3] *= -1
            return result

    chain = Chain.of(two)
    chain.solver = Runaway(threads=1)
    refined = chain.refine(*starts(two, [0]))
    assert refined.reasons == (OUT_OF_SIGHT, "")
    assert np.isnan(refined.T_camera_object[0]).all()
    assert refined.iterations[0] == 1


def test_shifts_bound_the_motion_of_all_points_of_the_ball():
    rng = np.random.default_rng(1)
    n, diameter, centre = 40, 0.2, np.array([0.03, -0.01, 0.02])
    ball = rng.normal(size=(4000, 3))
    ball = centre + 0.5 * diameter * ball / np.linalg.norm(ball, axis=1, keepdims=True)
    K = np.array([[500.0, 0, 63.5], [0, 500.0, 63.5], [0, 0, 1]])
    R = se3.random_rotation(rng, (n,))
    T_old = se3.from_rt(R, np.array([0, 0, 1.2]) - R @ centre)
    turn = se3.so3_exp(rng.normal(0, 0.01, (n, 3)))
    T_new = se3.from_rt(turn @ R, T_old[:, :3, 3] + rng.normal(0, 0.003, (n, 3)) + ((R - turn @ R) @ centre))
    space, pixels = shifts(T_old, T_new, np.repeat(K[None], n, 0), np.repeat(centre[None], n, 0), np.full(n, diameter))
    old, new = (se3.transform(T, ball) for T in (T_old, T_new))
    moved = np.linalg.norm(new - old, axis=-1).max(axis=1) / diameter
    seen = np.linalg.norm(project(K, new) - project(K, old), axis=-1).max(axis=1)
    assert (moved <= space * (1 + 1e-6)).all()
    assert (moved > 0.4 * space).all()
    assert (seen <= pixels * 1.12).all()  # what lies nearer than the centre moves more, here by 1 / (1 - 0.1 / 1.2)
    assert (seen > 0.4 * pixels).all()


def test_the_covariance_is_that_of_the_real_cameras_axes(two):
    """xi of the real camera, carried into the crop's axes by finite differences, has the crop's covariance."""
    chain = Chain.of(two)
    pairs = chain.maker().make(two.placed[1].T[None], np.array([1]))
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6))
    crop_covariance = (A @ A.T)[None]
    camera_covariance = se3.turn_covariances(np.swapaxes(pairs.crop.R_crop_camera, 1, 2), crop_covariance)[0]
    T, step = two.placed[1].T, 1e-6
    J = np.zeros((6, 6))
    before = pairs.crop.to_crop(T[None])[0]
    for k in range(6):
        xi = np.zeros(6)
        xi[k] = step
        moved = se3.from_rt(se3.so3_exp(xi[3:]) @ T[:3, :3], T[:3, 3] + xi[:3])
        after = pairs.crop.to_crop(moved[None])[0]
        J[:3, k] = (after[:3, 3] - before[:3, 3]) / step
        J[3:, k] = se3.so3_log(after[:3, :3] @ before[:3, :3].T) / step
    np.testing.assert_allclose(J @ camera_covariance @ J.T, crop_covariance[0], atol=1e-6)


def test_a_hypothesis_alone_and_among_others_gets_the_same_pose(two):
    T, index = starts(two, range(3))
    chain = Chain.of(two, faults=Faults(flow_noise=0.5))
    among = chain.refine(T, index)
    for i in (0, 3, 5):
        alone = chain.refine(T[i : i + 1], index[i : i + 1])
        for name in ("T_camera_object", "covariance", "residual_px", "weight", "iterations"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(among, name)[i], err_msg=name)


def test_the_input_is_left_as_it_was(two):
    T, index = starts(two, [0])
    T[0] = np.nan
    kept = T.copy()
    Chain.of(two).refine(T, index)
    np.testing.assert_array_equal(T, kept)
