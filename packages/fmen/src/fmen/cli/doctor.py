"""``fmen doctor``."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Show versions, devices, data and weights.

    Each line that starts with -- names what is missing and how to get it.
    """
    from fmen.doctor import examine

    for title, findings in examine():
        typer.echo(title)
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            typer.echo(f"  {'ok' if finding.present else '--'}  {finding.name:<{width}}  {finding.detail}")
