"""The small changes that are made to code: one operator, number, condition, return value or statement at a time.

Texts, error messages, annotations and imports are left alone.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
LEFT_ALONE = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One change to one file.

    Attributes:
        file: path in the repository.
        line: on which its statement begins.
        start, end: bytes of the file that are replaced.
        was, now: what by what.
        at_import: whether the line runs when the module is imported, and in no function.
        key: stands for it and for the file as it was.
    """

    file: str
    line: int
    start: int
    end: int
    was: str
    now: str
    at_import: bool
    key: str

    def applied(self, content: bytes) -> bytes:
        """Return the file with the change."""
        return content[: self.start] + self.now.encode() + content[self.end :]

    def described(self) -> dict[str, Any]:
        """Return what a report says of it."""
        facts = asdict(self)
        return {**{key: facts[key] for key in ("key", "file", "line", "was")}, "is": self.now}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.was!r} -> {self.now!r}"


class _Finder(ast.NodeVisitor):
    """Walks a module and notes where it can be changed."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.starts = [0]
        for line in content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[tuple[int, int, int, str, bool]] = []
        self._depth = self._line = 0

    def visit(self, node: ast.AST) -> None:
        """Note what can be done to a node, then go on below it."""
        if isinstance(node, LEFT_ALONE):
            return
        if isinstance(node, ast.stmt):
            self._line = node.lineno
        kind = type(node).__name__
        getattr(self, f"_on_{kind}", lambda _: None)(node)
        function = isinstance(node, (ast.FunctionDef, ast.Lambda))
        self._depth += function
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)
        self._depth -= function

    def _place(self, node: Any) -> tuple[int, int]:
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _note(self, start: int, end: int, now: str) -> None:
        self.found.append((self._line, start, end, now, not self._depth))

    def _between(self, left: ast.expr, right: ast.expr, operator: ast.AST) -> None:
        """Change the operator between two expressions; brackets may stand there too."""
        if type(operator) not in OPERATORS:
            return
        was, now = OPERATORS[type(operator)]
        start, end = self._place(left)[1], self._place(right)[0]
        pattern = rf"\b{was.replace(' ', chr(92) + 's+')}\b" if was.isalpha() or " " in was else re.escape(was)
        hit = re.search(pattern.encode(), self.content[start:end])
        if hit:
            self._note(start + hit.start(), start + hit.end(), now)

    def _on_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self._between(left, right, operator)

    def _on_BinOp(self, node: ast.BinOp) -> None:
        self._between(node.left, node.right, node.op)

    def _on_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, node.op)

    def _on_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            self._note(self._place(node)[0], self._place(node.operand)[0], "")

    def _on_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._note(*self._place(node), str(not value))
        elif isinstance(value, (int, float)):
            self._note(*self._place(node), repr(value + 1))

    def _on_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._note(*self._place(node.value), "None")

    def _condition(self, node: ast.If | ast.IfExp | ast.While) -> None:
        start, end = self._place(node.test)
        self._note(start, end, f"(not ({self.content[start:end].decode()}))")

    _on_If = _on_IfExp = _on_While = _condition

    def _on_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._note(*self._place(node), "pass")

    def _on_AugAssign(self, node: ast.AugAssign) -> None:
        self._note(*self._place(node), "pass")


def mutants_of(path: Path, name: str) -> Iterator[Mutant]:
    """Yield all mutants of a file that are Python; ``name`` is its path in the repository."""
    content = path.read_bytes()
    finder = _Finder(content)
    finder.visit(ast.parse(content))
    for line, start, end, now, at_import in finder.found:
        was = content[start:end].decode()
        digest = hashlib.sha256(content + f"\0{start}\0{end}\0{now}".encode()).hexdigest()[:16]
        mutant = Mutant(name, line, start, end, was, now, at_import, digest)
        try:
            compile(mutant.applied(content), name, "exec")
        except SyntaxError:
            continue
        yield mutant
