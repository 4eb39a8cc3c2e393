"""Every binding of the extension is given addresses by ``_arrays.native`` and by nothing else.

Read from the source: the stub says which arguments of which binding are arrays, and every call must make them with
``native``. What ``native`` refuses is in ``tests/test_arrays.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import prunecca
from prunecca import _native

PACKAGE = Path(prunecca.__file__).parent
# Present in a build with CUDA only.
OF_CUDA = {"covariance_update_cuda", "covariance_workspace_cuda"}
# All bindings that take an address otherwise: where it lies is asked, and it is not read. Streams are handles.
ADDRESSES = {"device_of": ["address"]}
OF_TESTS = {"emulated_tile_counts"}  # called by tests alone


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def declared() -> dict[str, ast.arguments]:
    return {f.name: f.args for f in parse(PACKAGE / "_native.pyi").body if isinstance(f, ast.FunctionDef)}


def is_array(annotation: ast.expr | None) -> bool:
    parts = ast.walk(annotation) if annotation is not None else []
    # NativeTerms is a list of arrays of the gate and numbers beside them.
    return any(getattr(n, "id", getattr(n, "attr", None)) in ("Array", "NativeTerms") for n in parts)


def array_arguments(arguments: ast.arguments) -> list[str]:
    return [a.arg for a in arguments.args if is_array(a.annotation)]


class Module:
    """One source file: its calls of the extension, and whether an expression is made of arrays of the gate."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, parse(path)
        self.functions = [f for f in ast.walk(self.tree) if isinstance(f, ast.FunctionDef)]

    def calls(self) -> Iterator[tuple[ast.Call, str, ast.FunctionDef | None]]:
        for call in (n for n in ast.walk(self.tree) if isinstance(n, ast.Call)):
            f = call.func
            if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "_native":
                around = [f for f in self.functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
                yield call, f.attr, max(around, key=lambda f: f.lineno, default=None)

    def made(self, value: ast.expr, function: ast.FunctionDef | None) -> bool:
        """Whether a value comes from ``native``, directly or through names, lists and functions of this file."""
        match value:
            case ast.Constant(value=None):
                return True
            case ast.Call(func=ast.Name(id="native")):
                return True
            case ast.Call(func=ast.Name(id=name)):
                return self.returns_made(name)
            case ast.ListComp(elt=element):
                return self.made(element, function)
            case ast.List(elts=elements):
                return all(self.made(e, function) for e in elements)
            case ast.IfExp(body=body, orelse=orelse):
                return self.made(body, function) and self.made(orelse, function)
            case ast.Name(id=name) if function is not None:
                return self.name_is_made(name, function)
        return False

    def returns_made(self, name: str) -> bool:
        found = [f for f in self.functions if f.name == name]
        returns = [n.value for f in found for n in ast.walk(f) if isinstance(n, ast.Return)]
        return bool(returns) and all(v is not None and self.made(v, None) for v in returns)

    def name_is_made(self, name: str, function: ast.FunctionDef) -> bool:
        around = [f for f in self.functions if function in ast.walk(f)]  # itself, and those it is defined in
        argument = next((a for f in around for a in f.args.args if a.arg == name), None)
        if argument is not None:  # mypy holds the callers to the type, which only ``native`` makes
            return is_array(argument.annotation)
        values = [
            n.value
            for n in ast.walk(function)
            if isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in n.targets)
        ]
        return bool(values) and all(self.made(v, function) for v in values)


MODULES = [Module(p) for p in sorted(PACKAGE.rglob("*.py"))]
CALLS = [(module, *call) for module in MODULES for call in module.calls()]


def starred(module: Module, value: ast.expr, function: ast.FunctionDef) -> list[ast.expr]:
    """The members of a tuple that is unpacked into arguments."""
    assert isinstance(value, ast.Name), "a call of the extension unpacks something else than a name"
    tuples = [
        n.value
        for n in ast.walk(function)
        if isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id == value.id for t in n.targets)
    ]
    assert len(tuples) == 1
    assert isinstance(tuples[0], ast.Tuple)
    return tuples[0].elts


def unpacked(module: Module, value: ast.expr) -> dict[str, list[tuple[ast.expr, ast.FunctionDef]]]:
    """The entries of a mapping that is unpacked into arguments, by key, wherever the file gives it some."""
    assert isinstance(value, ast.Name), "a call of the extension unpacks something else than a name"
    entries: dict[str, list[tuple[ast.expr, ast.FunctionDef]]] = {}
    for function in module.functions:
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=mapping):
                    pass
                case ast.AnnAssign(target=ast.Name(id=name), value=mapping):
                    pass
                case ast.AugAssign(target=ast.Name(id=name), op=ast.BitOr(), value=mapping):
                    pass
                case _:
                    continue
            if name != value.id:
                continue
            assert isinstance(mapping, ast.Dict), f"{module.path.name}: {name} is no literal mapping"
            for key, entry in zip(mapping.keys, mapping.values, strict=True):
                assert isinstance(key, ast.Constant)
                entries.setdefault(key.value, []).append((entry, function))
    return entries


def test_the_stub_declares_every_binding():
    bound = {name for name in dir(_native) if callable(getattr(_native, name)) and not name.startswith("__")}
    assert bound | OF_CUDA == set(declared())


def test_no_binding_takes_an_address_by_itself():
    for name, arguments in declared().items():
        assert [a.arg for a in arguments.args if a.arg in ("address", "pointer", "data_ptr")] == ADDRESSES.get(name, [])


@pytest.mark.parametrize("name", sorted(declared().keys() - OF_TESTS))
def test_arrays_of_every_call_come_from_the_gate(name):
    wanted = array_arguments(declared()[name])
    order = [a.arg for a in declared()[name].args]
    calls = [(m, c, f) for m, c, called, f in CALLS if called == name]
    assert calls, "the binding is called by nobody"
    for module, call, function in calls:
        positional: list[ast.expr] = []
        for value in call.args:
            if isinstance(value, ast.Starred):
                assert function is not None
                positional += starred(module, value.value, function)
            else:
                positional.append(value)
        given = dict(zip(order, positional, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
        mappings = [unpacked(module, k.value) for k in call.keywords if k.arg is None]
        for argument in wanted:
            where = f"{module.path.name}:{call.lineno}, argument {argument}"
            values = [(given[argument], function)] if argument in given else []
            values += [entry for mapping in mappings for entry in mapping.get(argument, [])]
            assert values, where
            assert all(module.made(value, around) for value, around in values), f"{where} is not made by native()"


def test_bindings_are_only_called_by_name():
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("_native"):
                assert [a.name for a in node.names] == ["Array"], f"{module.path} takes bindings out of the extension"
        attributes = {id(c.func) for c, _, _ in module.calls()}
        functions = [
            n
            for n in ast.walk(module.tree)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "_native"
        ]
        for node in functions:
            assert id(node) in attributes or node.attr == "Array" or node.attr.isupper(), f"{module.path}:{node.lineno}"


def test_only_the_gate_looks_at_addresses_and_makes_arrays():
    for module in MODULES:
        used = {n.attr for n in ast.walk(module.tree) if isinstance(n, ast.Attribute)}
        if module.path.name != "_arrays.py":
            assert not used & {"data_ptr", "__array_interface__"}, module.path
            assert not [f for f in module.functions if f.name in ("native", "resolved")], module.path
            casts = [
                c for c in ast.walk(module.tree) if isinstance(c, ast.Call) and getattr(c.func, "id", "") == "cast"
            ]
            assert not [c for c in casts if "_native" in ast.unparse(c.args[0])], module.path
