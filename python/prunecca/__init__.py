"""Train, prune and compare neural networks layer by layer.

Layers are compared by SVCCA and its relatives from one streaming pass over the data, in memory that does not
grow with the number of datapoints. See the README for the two-minute tour.
"""

from . import _interrupt  # before the seconds that torch takes  # noqa: F401

# isort: split
import torch  # before the extension: its OpenMP runtime must be in the process before the extension asks for one  # noqa: F401

from . import data, models, ops, pruning, training
from .activations.layers import Layer, find_layers
from .comparison.compare import compare
from .comparison.consecutive import consecutive_layers
from .comparison.files import compare_files
from .comparison.result import Comparison
from .covariance.covariance import Covariance
from .covariance.streaming import StreamingCovariance
from .dimension import IntrinsicDimension, intrinsic_dimension, intrinsic_dimensions, pc_dimension
from .geometry.curvature import Curvature, curvature
from .geometry.kernel import rbf_cka
from .geometry.neighbourhoods import cknna, jaccard, mutual_knn
from .geometry.rank_rsa import spearman_rsa
from .input_moments import mean_squares, second_moments
from .machine.info import build_info, cpu_level, set_cpu_level
from .similarity.canonical import CanonicalCorrelations
from .similarity.cca import cca, mean_squared_cca, pillai, pwcca, svcca, yanai
from .similarity.cka import angular_cka, cka_distance, linear_cka
from .similarity.matching import hard_matching, permutation_matching, soft_matching, soft_matching_distance
from .similarity.procrustes import angular_procrustes, nbs, procrustes, procrustes_distance
from .similarity.registry import METRICS
from .similarity.regression import linear_regression
from .similarity.rsa import rsa
from .similarity.shape import gulp, shape_distance
from .similarity.subspace_match import SubspaceMatch, maximum_match, simple_match
from .sizes.dual import DualAccumulator
from .sizes.minibatch import MinibatchCKA, MinibatchEstimate, minibatch_cka

__version__: str = build_info()["version"]

__all__ = [
    "METRICS",
    "CanonicalCorrelations",
    "Comparison",
    "Covariance",
    "Curvature",
    "DualAccumulator",
    "IntrinsicDimension",
    "Layer",
    "MinibatchCKA",
    "MinibatchEstimate",
    "StreamingCovariance",
    "SubspaceMatch",
    "__version__",
    "angular_cka",
    "angular_procrustes",
    "build_info",
    "cca",
    "cka_distance",
    "cknna",
    "compare",
    "compare_files",
    "consecutive_layers",
    "cpu_level",
    "curvature",
    "data",
    "find_layers",
    "gulp",
    "hard_matching",
    "intrinsic_dimension",
    "intrinsic_dimensions",
    "jaccard",
    "linear_cka",
    "linear_regression",
    "maximum_match",
    "mean_squared_cca",
    "mean_squares",
    "minibatch_cka",
    "models",
    "mutual_knn",
    "nbs",
    "ops",
    "pc_dimension",
    "permutation_matching",
    "pillai",
    "procrustes",
    "procrustes_distance",
    "pruning",
    "pwcca",
    "rbf_cka",
    "rsa",
    "second_moments",
    "set_cpu_level",
    "shape_distance",
    "simple_match",
    "soft_matching",
    "soft_matching_distance",
    "spearman_rsa",
    "svcca",
    "training",
    "yanai",
]
