"""Signatures of methods as short texts, which travel with a stand-in: what they name need not be imported."""

from __future__ import annotations

import ast
import inspect
import weakref
from typing import Any


def of(function: Any) -> inspect.Signature:
    """The signature that something in a class has as an attribute of an instance.

    Raises:
        TypeError, ValueError: it has none.
    """
    signature = inspect.signature(plain(function))
    if isinstance(function, staticmethod):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def text(function: Any) -> str:
    """As `of`, as a text; ``""`` where that raises. Defaults that are no literals read ``...``."""
    try:
        known = _texts.setdefault(plain(function), {})
        static = isinstance(function, staticmethod)
        if static not in known:
            known[static] = _text(of(function))
        return known[static]
    except (TypeError, ValueError):
        return ""


# By function, and whether it is static; making one takes 30 us.
_texts: weakref.WeakKeyDictionary[Any, dict[bool, str]] = weakref.WeakKeyDictionary()


def plain(function: Any) -> Any:
    """What a static or class method is made of, and other functions as they are."""
    return function.__func__ if isinstance(function, (staticmethod, classmethod)) else function


def _text(signature: inspect.Signature) -> str:
    parameters = [
        each if each.default is each.empty or _literal(each.default) else each.replace(default=...)
        for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters))


def _literal(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def read(text: str) -> inspect.Signature:
    """The signature in a text; annotations are strings. For ``""`` that of a function which takes anything."""
    source = f"def f{text or '(*args, **kwargs)'}: ..."
    try:
        function = ast.parse(source).body[0]
    except SyntaxError:  # an annotation that prints as something else than Python
        return read("")
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    kinds = inspect.Parameter
    rows: list[tuple[ast.arg | None, Any, ast.expr | None]] = [
        *((each, kinds.POSITIONAL_ONLY, default) for each, default in zip(given.posonlyargs, defaults)),
        *(
            (each, kinds.POSITIONAL_OR_KEYWORD, default)
            for each, default in zip(given.args, defaults[len(given.posonlyargs) :])
        ),
        (given.vararg, kinds.VAR_POSITIONAL, None),
        *((each, kinds.KEYWORD_ONLY, default) for each, default in zip(given.kwonlyargs, given.kw_defaults)),
        (given.kwarg, kinds.VAR_KEYWORD, None),
    ]
    return inspect.Signature(
        [
            kinds(each.arg, kind, default=_value(default), annotation=_annotation(source, each.annotation))
            for each, kind, default in rows
            if each is not None
        ],
        return_annotation=_annotation(source, function.returns),
    )


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return inspect.Parameter.empty
    try:
        return ast.literal_eval(default)
    except ValueError:  # nan, inf
        return ...


def _annotation(source: str, node: ast.expr | None) -> Any:
    if node is None:
        return inspect.Signature.empty
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.get_source_segment(source, node)
