"""Transcendental functions of each element: powers, exponentials and logarithms, roots, trigonometric and hyperbolic functions, erf."""

import numpy as np

from ..mlir import ir
from .constant import full, full_like
from .elementwise import Add, Binary, Compare, Div, Mul, Neg, Select, Sub, Unary

# ---- powers, exponentials, logarithms, roots -------------------------------------------------------------------------------------


class Pow(Binary, name="pow"):
    """a ** b; the gradient of b is 0 where a is 0 (as the limit of a**b log a for b > 0)"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind != "f":
            return np.power(a, np.maximum(b, 0)).astype(a.dtype)
        return np.power(a, b)

    def gradient(self, g: ir.Value) -> list:
        t = self.type
        one, zero = full(t, 1), full(t, 0)
        da = Mul.of(g, Mul.of(self.b, Pow.of(self.a, Sub.of(self.b, one))))
        da = Select.of(Compare.of(self.b, zero, predicate="eq"), zero, da)
        positive = Compare.of(self.a, zero, predicate="gt")
        safe = Select.of(positive, self.a, one)
        db = Select.of(positive, Mul.of(g, Mul.of(self.results[0], Log.of(safe))), zero)
        return [da, db]


class Exp(Unary, name="exp"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.exp(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, self.results[0])]


class Expm1(Unary, name="expm1"):
    """exp(x) - 1, exact near 0"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.expm1(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Add.of(self.results[0], full_like(g, 1)))]


class Log(Unary, name="log"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.log(x)

    def gradient(self, g: ir.Value) -> list:
        return [Div.of(g, self.x)]


class Log1p(Unary, name="log1p"):
    """log(1 + x), exact near 0"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.log1p(x)

    def gradient(self, g: ir.Value) -> list:
        return [Div.of(g, Add.of(self.x, full_like(g, 1)))]


class Sqrt(Unary, name="sqrt"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)

    def gradient(self, g: ir.Value) -> list:
        return [Div.of(Mul.of(g, full_like(g, 0.5)), self.results[0])]


class Rsqrt(Unary, name="rsqrt"):
    """1 / sqrt(x)"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt(x)

    def gradient(self, g: ir.Value) -> list:
        y = self.results[0]
        return [Mul.of(Mul.of(g, full_like(g, -0.5)), Mul.of(y, Mul.of(y, y)))]


# ---- trigonometric and hyperbolic ------------------------------------------------------------------------------------------------


class Sin(Unary, name="sin"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.sin(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Cos.of(self.x))]


class Cos(Unary, name="cos"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.cos(x)

    def gradient(self, g: ir.Value) -> list:
        return [Neg.of(Mul.of(g, Sin.of(self.x)))]


def _quotient(g: ir.Value, denominator: ir.Value) -> list:
    return [Div.of(g, denominator)]


def _square(x: ir.Value) -> ir.Value:
    return Mul.of(x, x)


class Tan(Unary, name="tan"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.tan(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Add.of(_square(self.results[0]), full_like(g, 1)))]


class Asin(Unary, name="asin"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arcsin(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Rsqrt.of(Sub.of(full_like(g, 1), _square(self.x))))]


class Acos(Unary, name="acos"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arccos(x)

    def gradient(self, g: ir.Value) -> list:
        return [Neg.of(Mul.of(g, Rsqrt.of(Sub.of(full_like(g, 1), _square(self.x)))))]


class Atan(Unary, name="atan"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arctan(x)

    def gradient(self, g: ir.Value) -> list:
        return _quotient(g, Add.of(full_like(g, 1), _square(self.x)))


class Atan2(Binary, name="atan2"):
    """The angle of the point (b, a)"""

    accepts = "float"

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.arctan2(a, b)

    def gradient(self, g: ir.Value) -> list:
        q = Div.of(g, Add.of(_square(self.a), _square(self.b)))
        return [Mul.of(q, self.b), Neg.of(Mul.of(q, self.a))]


class Sinh(Unary, name="sinh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.sinh(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Cosh.of(self.x))]


class Cosh(Unary, name="cosh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.cosh(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Sinh.of(self.x))]


class Asinh(Unary, name="asinh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arcsinh(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Rsqrt.of(Add.of(_square(self.x), full_like(g, 1))))]


class Acosh(Unary, name="acosh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arccosh(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Rsqrt.of(Sub.of(_square(self.x), full_like(g, 1))))]


class Atanh(Unary, name="atanh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.arctanh(x)

    def gradient(self, g: ir.Value) -> list:
        return _quotient(g, Sub.of(full_like(g, 1), _square(self.x)))


class Tanh(Unary, name="tanh"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Sub.of(full_like(g, 1), _square(self.results[0])))]


class Sigmoid(Unary, name="sigmoid"):
    """1 / (1 + exp(-x)), without overflow"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)

    def gradient(self, g: ir.Value) -> list:
        y = self.results[0]
        return [Mul.of(g, Mul.of(y, Sub.of(full_like(g, 1), y)))]


class Erf(Unary, name="erf"):
    """The error function, 2/sqrt(pi) * integral of exp(-t**2) from 0 to x"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import erf

        return erf(x)

    def gradient(self, g: ir.Value) -> list:
        bell = Exp.of(Neg.of(_square(self.x)))
        return [Mul.of(g, Mul.of(bell, full_like(g, 2 / np.sqrt(np.pi))))]
