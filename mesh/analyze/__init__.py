"""What is wrong with a configuration, before it hurts: coded findings with a hint each.

    from mesh.analyze import analyze, Finding
    findings: list[Finding] = analyze(objects)

`objects` is the `ObjectSet` that any source delivers, so one function serves files
(`FileSource(directory).load_once()`) and a cluster (`anext(source.watch())`). To judge one object
against the rest of a cluster before it is taken in, as the admission webhook does, use
`analyze_change(objects, raw)`.

A `Finding` has `code` (`MN0001`…, see `mesh.model.codes`), `severity` (`error` or `warning`),
`subject` (kind, namespace and name of the object), `where` (file and line, or the object),
`message` and `hint`. Findings are sorted: errors first, then by place. Pure: no I/O, no clock.
"""

from mesh.analyze.change import analyze_change
from mesh.analyze.finding import Finding, hint_of
from mesh.analyze.run import analyze

__all__ = ["Finding", "analyze", "analyze_change", "hint_of"]
