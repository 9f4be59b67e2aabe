"""Pure elementwise functions, each with the rule for its derivative and a stated accuracy."""

from gelu_jax.activations.documentation import Elementwise as Elementwise
from gelu_jax.activations.gaussian import gelu as gelu
from gelu_jax.activations.gaussian import gelu_10 as gelu_10
from gelu_jax.activations.gaussian import laplace as laplace
from gelu_jax.activations.logistic import gelu_sigmoid as gelu_sigmoid
from gelu_jax.activations.logistic import gelu_tanh as gelu_tanh
from gelu_jax.activations.logistic import mish as mish
from gelu_jax.activations.logistic import sigmoid as sigmoid
from gelu_jax.activations.logistic import silu as silu
from gelu_jax.activations.logistic import softplus as softplus
from gelu_jax.activations.logistic import sqrt_softplus as sqrt_softplus
from gelu_jax.activations.logistic import tanh as tanh
from gelu_jax.activations.names import ACTIVATIONS as ACTIVATIONS
from gelu_jax.activations.names import activation as activation
from gelu_jax.activations.piecewise import celu as celu
from gelu_jax.activations.piecewise import elu as elu
from gelu_jax.activations.piecewise import hard_sigmoid as hard_sigmoid
from gelu_jax.activations.piecewise import hard_silu as hard_silu
from gelu_jax.activations.piecewise import identity as identity
from gelu_jax.activations.piecewise import leaky_relu as leaky_relu
from gelu_jax.activations.piecewise import prelu as prelu
from gelu_jax.activations.piecewise import relu as relu
from gelu_jax.activations.piecewise import relu6 as relu6
from gelu_jax.activations.piecewise import relu_squared as relu_squared
from gelu_jax.activations.piecewise import selu as selu
from gelu_jax.activations.piecewise import xielu as xielu
