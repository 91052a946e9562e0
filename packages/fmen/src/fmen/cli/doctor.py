"""``fmen doctor``: the command line."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Show versions, devices, data and weights, and what to do about what is missing."""
    from fmen.doctor import examine

    for title, findings in examine():
        typer.echo(title)
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            typer.echo(f"  {'ok' if finding.there else '--'}  {finding.what:<{width}}  {finding.detail}")
