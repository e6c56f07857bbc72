"""Exact value of an arithmetic expression written by a model, never evaluated as code."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

MAX_CHARACTERS = 200

_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}
# A whitelist of characters before Python's parser sees the text: no names, no powers, no floats.
_ALLOWED = re.compile(r"[0-9+\-*/() ]+", re.ASCII)


class ExpressionError(ValueError):
  """The text is no arithmetic expression over non-negative integers; the message says why."""


def parse(expression: str) -> ast.expr:
  """Syntax tree of an expression of integers, `+ - * /`, signs and parentheses.

  Raises:
    ExpressionError: if it is too long, or holds anything else.
  """
  if len(expression) > MAX_CHARACTERS:
    raise ExpressionError("too long")
  if not _ALLOWED.fullmatch(expression) or "**" in expression or "//" in expression:
    raise ExpressionError("forbidden character")
  try:
    tree = ast.parse(expression.strip(), mode="eval").body
  except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
    raise ExpressionError("malformed") from error
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and type(node.value) is int:
      continue
    if not isinstance(node, ast.BinOp | ast.operator | ast.UnaryOp | ast.UAdd | ast.USub):
      raise ExpressionError("malformed")
  return tree


def value(tree: ast.expr) -> Fraction:
  """Exact value of a tree from `parse`.

  Raises:
    ExpressionError: on division by zero.

  >>> value(parse("(1+2)/4"))
  Fraction(3, 4)
  """
  if isinstance(tree, ast.Constant):
    return Fraction(tree.value)
  if isinstance(tree, ast.UnaryOp):
    inner = value(tree.operand)
    return -inner if isinstance(tree.op, ast.USub) else inner
  left, right = value(tree.left), value(tree.right)
  if isinstance(tree.op, ast.Div) and right == 0:
    raise ExpressionError("division by zero")
  return _OPERATORS[type(tree.op)](left, right)


def numbers(tree: ast.expr) -> list[int]:
  """The integers of a tree in increasing order, repeats kept.

  >>> numbers(parse("3*(4+3)"))
  [3, 3, 4]
  """
  return sorted(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))


def canonical(tree: ast.expr) -> str:
  """One spelling for expressions that differ in spaces, needless parentheses or operands' order.

  >>> canonical(parse("4 * (2+1)")) == canonical(parse("(1+2)*4"))
  True
  """
  if isinstance(tree, ast.Constant):
    return str(tree.value)
  if isinstance(tree, ast.UnaryOp):
    inner = canonical(tree.operand)
    return f"(-{inner})" if isinstance(tree.op, ast.USub) else inner
  sides = [canonical(tree.left), canonical(tree.right)]
  if isinstance(tree.op, ast.Add | ast.Mult):
    sides.sort()
  symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(tree.op)]
  return f"({sides[0]}{symbol}{sides[1]})"
