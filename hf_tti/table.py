"""Aligned plain-text tables: text to the left, numbers to the right, a dash where there is no
value.
"""

from collections.abc import Mapping, Sequence

Cell = str | int | float | None


def format_number(value: float | None, digits: int = 4) -> str:
    """Four significant digits, without an exponent between 0.001 and 1,000,000; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    value += 0.0  # of -0.0 makes 0.0
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        decimals = digits if abs(value) < 1 else max(0, digits - len(str(int(abs(value)))))
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:04:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_table(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned lines under a header. Columns default to the keys in the order in which rows
    bring them.

    A column is set to the right when all of its values are numbers.
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    values = {name: [row.get(name) for row in rows] for name in names}
    texts = {name: [name, *map(_text, values[name])] for name in names}
    widths = {name: max(map(len, texts[name])) for name in names}
    numeric = {name: not any(isinstance(value, str) for value in values[name]) for name in names}

    def line(index: int) -> str:
        cells = [
            texts[name][index].rjust(widths[name]) if numeric[name] else texts[name][index].ljust(widths[name])
            for name in names
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * widths[name] for name in names)
    return "\n".join([line(0), rule, *(line(index) for index in range(1, len(rows) + 1))])


def _text(value: Cell) -> str:
    return value if isinstance(value, str) else format_number(value)


def headline_metrics(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """`perplexity` and each metric's mean over layers, by label, of an evaluation's `eval_...`
    values.

    A metric over several sites has one mean for each, `<label>/<site>`.
    """
    means = {
        key.removeprefix("eval_").removesuffix("/mean"): value
        for key, value in metrics.items()
        if key.startswith("eval_") and key.endswith("/mean")
    }
    whole = {name for name in means if "/" not in name}
    shown = {name: value for name, value in means.items() if name.split("/")[0] not in whole - {name}}
    return {"perplexity": metrics.get("eval_perplexity"), **shown}
