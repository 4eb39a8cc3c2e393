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
from .comparison.files import compare_files
from .comparison.result import Comparison
from .covariance.covariance import Covariance
from .covariance.streaming import StreamingCovariance
from .dimension import IntrinsicDimension, intrinsic_dimension, intrinsic_dimensions
from .machine.info import build_info, cpu_level, set_cpu_level
from .similarity.cca import CanonicalCorrelations, cca, pwcca, svcca
from .similarity.cka import linear_cka
from .similarity.procrustes import nbs, procrustes
from .similarity.registry import METRICS
from .similarity.regression import linear_regression

__version__: str = build_info()["version"]

__all__ = [
    "METRICS",
    "CanonicalCorrelations",
    "Comparison",
    "Covariance",
    "IntrinsicDimension",
    "Layer",
    "StreamingCovariance",
    "__version__",
    "build_info",
    "cca",
    "compare",
    "compare_files",
    "cpu_level",
    "data",
    "find_layers",
    "intrinsic_dimension",
    "intrinsic_dimensions",
    "linear_cka",
    "linear_regression",
    "models",
    "nbs",
    "ops",
    "procrustes",
    "pruning",
    "pwcca",
    "set_cpu_level",
    "svcca",
    "training",
]
