"""What the selection benchmark compares with: other packages, each as its own documentation says to call it.

The packages are those of the extra `bench`, imported when they run. anomalib is not installed for one algorithm: what
it computes is written out here and named as such.
"""

import time

import numpy as np

from mmcsal_core.neighbors.vectors import Floats, Vectors
from tests.benchmarks.selection_methods import Answer, Method, Problem, Task, compute_dense_kernel
from tests.benchmarks.selection_pools import SEED

ANOMALIB_EPS = 0.9


def run_skmatter_fps(problem: Problem) -> Answer:
    """Run scikit-matter's FPS."""
    from skmatter.sample_selection import FPS

    chosen = FPS(initialize=problem.start, n_to_select=problem.num_picks).fit(problem.vectors)
    return Answer(np.asarray(chosen.selected_idx_))


def run_skmatter_voronoi(problem: Problem) -> Answer:
    """Run scikit-matter's VoronoiFPS."""
    from skmatter.sample_selection import VoronoiFPS

    chosen = VoronoiFPS(initialize=problem.start, n_to_select=problem.num_picks).fit(problem.vectors)
    return Answer(np.asarray(chosen.selected_idx_))


def run_fpsample(problem: Problem) -> Answer:
    """Run fpsample's vanilla farthest point sampling."""
    import fpsample

    return Answer(fpsample.fps_sampling(problem.vectors, problem.num_picks, start_idx=problem.start).astype(np.int64))


def run_fpsample_npdu(problem: Problem) -> Answer:
    """Run fpsample's nearest-point-distance-updating variant, which assumes that near rows have near numbers."""
    import fpsample

    picks = fpsample.fps_npdu_sampling(problem.vectors, problem.num_picks, start_idx=problem.start)
    return Answer(picks.astype(np.int64))


def run_fpsample_npdu_tree(problem: Problem) -> Answer:
    """Run the same variant with neighbours from a k-d tree."""
    import fpsample

    picks = fpsample.fps_npdu_kdtree_sampling(problem.vectors, problem.num_picks, start_idx=problem.start)
    return Answer(picks.astype(np.int64))


def run_activeml_core_set(problem: Problem) -> Answer:
    """Run scikit-activeml's CoreSet with the start row as the one labelled sample."""
    from skactiveml.pool import CoreSet

    labels = np.full(len(problem.vectors), np.nan)
    labels[problem.start] = 0
    picks = CoreSet(random_state=SEED).query(problem.vectors, labels, batch_size=problem.num_picks - 1)
    return Answer(np.concatenate([[problem.start], picks]))


def run_activeml_herding(problem: Problem) -> Answer:
    """Run scikit-activeml's MaxHerding with the same kernel."""
    from skactiveml.pool import MaxHerding

    strategy = MaxHerding(metric_dict={"gamma": 1 / problem.bandwidth}, random_state=SEED)
    labels = np.full(len(problem.vectors), np.nan)
    return Answer(strategy.query(problem.vectors, labels, batch_size=problem.num_picks))


def run_anomalib(problem: Problem) -> Answer:
    """Project at random, then take the farthest row one at a time: the formulas of anomalib's KCenterGreedy.

    Very sparse random projection (Li, Hastie & Church, KDD 2006) of density 1 / sqrt(D) to the dimensions that the
    lemma of Johnson and Lindenstrauss asks for at distortion 0.9, which may be more than D; distances are norms of
    differences. The formulas were read in anomalib's source (Apache-2.0); the code is our own.
    """
    import torch

    projection = torch.from_numpy(_draw_projection(*problem.vectors.shape))
    rows = torch.from_numpy(problem.vectors) @ projection.T
    picks = [problem.start]
    nearest = torch.linalg.norm(rows - rows[problem.start], dim=1)
    while len(picks) < problem.num_picks:
        farthest = int(torch.argmax(nearest))
        picks.append(farthest)
        nearest = torch.minimum(nearest, torch.linalg.norm(rows - rows[farthest], dim=1))
        nearest[farthest] = 0.0
    return Answer(np.array(picks))


def _draw_projection(num_rows: int, dim: int) -> Vectors:
    from sklearn.random_projection import johnson_lindenstrauss_min_dim

    num_components = int(johnson_lindenstrauss_min_dim(num_rows, eps=ANOMALIB_EPS))
    rng = np.random.default_rng(SEED)
    density = dim**-0.5
    signs = rng.choice([-1.0, 1.0], (num_components, dim)) * (rng.random((num_components, dim)) < density)
    projection: Vectors = (signs * (density * num_components) ** -0.5).astype(np.float32)
    return projection


def run_apricot(problem: Problem) -> Answer:
    """Run apricot's facility location, lazy greedy, on the dense kernel."""
    from apricot import FacilityLocationSelection

    dense, graph = _time_dense_kernel(problem)
    started = time.process_time()
    chosen = FacilityLocationSelection(problem.num_picks, metric="precomputed", optimizer="lazy").fit(dense)
    return Answer(np.asarray(chosen.ranking), {"graph": graph, "greedy": time.process_time() - started})


def run_submodlib(problem: Problem) -> Answer:
    """Run submodlib's facility location, lazy greedy, on the dense kernel."""
    from submodlib import FacilityLocationFunction

    dense, graph = _time_dense_kernel(problem)
    started = time.process_time()
    function = FacilityLocationFunction(n=len(dense), mode="dense", separate_rep=False, sijs=dense)
    ranked = function.maximize(
        budget=problem.num_picks, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False
    )
    return Answer(np.array([row for row, _ in ranked]), {"graph": graph, "greedy": time.process_time() - started})


def _time_dense_kernel(problem: Problem) -> tuple[Floats, float]:
    started = time.process_time()
    dense = compute_dense_kernel(problem, "joint")
    return dense, time.process_time() - started


PEERS: dict[Task, list[Method]] = {
    "k-center": [
        Method("scikit-matter FPS", run_skmatter_fps, "skmatter", is_exact=True, is_one_pick=True),
        Method("scikit-matter VoronoiFPS", run_skmatter_voronoi, "skmatter", is_exact=True, is_one_pick=True),
        Method("fpsample vanilla", run_fpsample, "fpsample", is_exact=True, is_one_pick=True),
        Method("scikit-activeml CoreSet", run_activeml_core_set, "scikit-activeml", is_exact=True, is_one_pick=True),
        Method("anomalib's algorithm", run_anomalib, is_one_pick=True),
        Method("fpsample npdu", run_fpsample_npdu, "fpsample"),
        Method("fpsample npdu, k-d tree", run_fpsample_npdu_tree, "fpsample"),
    ],
    "coverage": [
        Method("apricot facility location", run_apricot, "apricot-select", is_exact=True, is_dense=True),
        Method("submodlib facility location", run_submodlib, "submodlib-py", is_exact=True, is_dense=True),
        Method("scikit-activeml MaxHerding", run_activeml_herding, "scikit-activeml", is_exact=True, is_dense=True),
    ],
}
