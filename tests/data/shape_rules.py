"""Writes shape_rules.json: what PyTorch makes of every line of op_calls.txt, without computing anything (fake tensors).

`schemas`: {operator: PyTorch's schema}. `calls`: [{line, types, free}]: `types` are the results' types by the element type put in
for what the line leaves open, as "f32[2,3]"; types that PyTorch refuses are missing. `free` lists groups of axes, as [tensor, axis],
whose size can change together: when it is each of `sizes`, the results have each of `types`.

Needs tests/conformance/requirements.txt. `python shape_rules.py` in any folder.
"""

import json
import logging
import re
import warnings
from pathlib import Path

import torch
import torchao.prototype.quantization.codebook_coreml  # noqa: F401  registers operators
import torchao.quantization  # noqa: F401
from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.ao.quantization.fx import _decomposed  # noqa: F401

HERE = Path(__file__).resolve().parent
SHORT = {
    torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64", torch.int8: "i8", torch.uint8: "u8",
    torch.int16: "i16", torch.uint16: "u16", torch.int32: "i32", torch.int64: "i64", torch.bool: "bool",
}  # fmt: skip
LONG = {v: k for k, v in SHORT.items()}
ELEMENTS = [torch.float32, torch.float16, torch.int64]
MORE = [0, 1, 6]  # sizes tried: so much more than the line has


def words(text):
    """Splits at spaces outside brackets."""
    out, depth = [""], 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == " " and depth == 0:
            out.append("")
        else:
            out[-1] += c
    return [w for w in out if w]


def overload(name):
    library, op, over = name.split(".")
    return getattr(getattr(getattr(torch.ops, library), op), over)


class Call:
    """A line. `shapes` are those of its tensors in order; `run` puts in others."""

    def __init__(self, line):
        line, _, results = line.partition(" -> ")
        name, *self.words = words(line)
        self.op, self.results = overload(name), int(results) if results else None
        self.shapes = []
        self.run(torch.float32, None)

    def run(self, element, shapes):
        """Types of the results."""
        self.element, self.given, self.seen = element, shapes, []
        specs = {a.name: str(a.type) for a in self.op._schema.arguments}
        args, kwargs = [], {}
        for i, w in enumerate(self.words):
            key, eq, value = w.partition("=")
            spec = self.op._schema.arguments[min(i, len(specs) - 1)]
            if eq and key in specs:
                kwargs[key] = self.arg(value, specs[key])
            elif spec.kwarg_only:
                kwargs[spec.name] = self.arg(w, specs[spec.name])
            else:
                args.append(self.arg(w, str(spec.type)))
        with torch.no_grad():
            out = self.op(*args, **kwargs)
        if shapes is None:
            self.shapes = self.seen
        out = torch.utils._pytree.tree_leaves(out)[: self.results]
        return [f"{SHORT[t.dtype]}[{','.join(str(int(n)) for n in t.shape)}]" for t in out]

    def arg(self, w, kind):
        if w == "n":
            return None
        if "Tensor" in kind and "List" in kind:
            return [self.arg(x, "Tensor") for x in words(w[1:-1])]
        if "Tensor" in kind:
            return self.tensor(w)
        if w.startswith(":"):
            return LONG[w[1:]]
        if w.startswith('"'):
            return w.strip('"')
        return {"true": True, "false": False}.get(w) if w in ("true", "false") else json.loads(w)

    def tensor(self, w):
        if w.startswith("#"):
            return torch.tensor(int(w[1:]))
        if w.startswith("=i"):
            literal = torch.tensor(json.loads(w[2:]))
            self.seen.append(list(literal.shape))
            return literal
        kind, dims = re.fullmatch(r"(\w+)\[([\d,]*)\].*", w).groups()
        shape = [int(d) for d in dims.split(",") if d]
        self.seen.append(shape)
        if self.given is not None:
            shape = self.given[len(self.seen) - 1]
        dtype = {"f": self.element, "p": self.element, "u": self.element, "b": torch.bool, "i": torch.int64}.get(kind) or LONG[kind]
        return torch.ones(shape, dtype=dtype)


def attempt(call, element, shapes):
    try:
        return call.run(element, shapes)
    except Exception:
        return None


def groups(shapes, axis):
    """Axes that may change together with this axis of the first tensor, the widest set first."""
    n = shapes[0][axis]
    yield [[t, i] for t, s in enumerate(shapes) for i, m in enumerate(s) if m == n]
    back = axis - len(shapes[0])
    yield [[t, len(s) + back] for t, s in enumerate(shapes) if len(s) + back >= 0 and s[back] == n]
    yield [[t, axis] for t, s in enumerate(shapes) if axis < len(s) and s[axis] == n]
    yield [[0, axis]]


def free(call, shapes, literals):
    """Sets of axes that PyTorch accepts in several sizes; a size of 1 has a meaning of its own, and is left alone."""
    found = []
    for axis in (i for i, n in enumerate(shapes[0] if shapes else []) if n > 1):
        sizes = [shapes[0][axis] + more for more in MORE]
        for group in groups(shapes, axis):
            if any(t in literals for t, _ in group):
                continue
            results = []
            for size in sizes:
                changed = [[size if [t, i] in group else m for i, m in enumerate(s)] for t, s in enumerate(shapes)]
                results.append(attempt(call, torch.float32, changed))
            if all(results) and len({len(r) for r in results}) == 1:
                if not any(f["axes"] == group for f in found):
                    found.append({"axes": group, "sizes": sizes, "types": results})
                break
    return found


def describe(line):
    call = Call(line)
    shapes = call.shapes
    literals = {i for i, w in enumerate(w for w in call.words if re.match(r"=i|\w+\[|\(", w)) if w.startswith("=i")}
    types = {SHORT[e]: r for e in ELEMENTS if (r := attempt(call, e, shapes)) is not None}
    with unset_fake_temporarily():  # without numbers, it takes integers that it cannot compute with
        real = {e: attempt(call, LONG[e], shapes) for e in types}
    keep = {e: real[e] == t or real[e] is None and e != "i64" for e, t in types.items()}
    types = {e: t for e, t in types.items() if keep[e] and (e != "i64" or line.startswith("aten."))}
    listed = any(w.startswith("(") and "=i" in w for w in call.words)
    return {"line": line, "types": types, "free": [] if listed else free(call, shapes, literals)}


def schema(op):
    """As native_functions.yaml has it, without aliases: constants by their names."""
    text = re.sub(r"^[^(]*", "", str(op._schema))
    text = re.sub(r"Tensor\([a-z][^)]*\)", "Tensor", text)
    text = text.replace("memory_format=0", "memory_format=contiguous_format")
    return text.replace("output_dtype=6", "output_dtype=float").replace("dtype=4", "dtype=long")


def main():
    warnings.simplefilter("ignore")
    logging.disable()
    lines = [x.strip() for x in (HERE / "op_calls.txt").read_text().splitlines()]
    lines = [x for x in lines if x and not x.startswith(("#", "lowbit."))]
    schemas, calls, refused = {}, [], []
    with FakeTensorMode():
        for line in lines:
            name = line.split(" ")[0]
            schemas[name] = schema(overload(name))
            try:
                calls.append(describe(line))
            except Exception as e:  # noqa: BLE001
                refused.append(f"{line}: {e}")
    if refused:
        raise SystemExit("PyTorch refuses\n" + "\n".join(refused))
    rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(schemas.items())]
    text = '{"schemas": {\n' + ",\n".join(rows) + '},\n"calls": [\n' + ",\n".join(json.dumps(c) for c in calls) + "]}\n"
    (HERE / "shape_rules.json").write_text(text)
    print(len(schemas), "schemas,", len(calls), "calls,", sum(len(c["free"]) for c in calls), "free axes")


if __name__ == "__main__":
    main()
