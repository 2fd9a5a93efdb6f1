"""`sigma-monitor report`: records in, one self-contained HTML file out.

From the file to the page, and the modules of each stage::

    record.jsonl -> Run     -> RunView            -> page
       reading      run        view, verdict         page, templates/
                    track      figures, heatmap,     write
                    news       spectrum, stack

`comparison` has the view of several runs, and `chain` that of a chain of generations. A page has
no script and asks no network for anything. What came from a record is untrusted: it goes through
`plain`, and the templates escape it.
"""

from sigma_monitor.report.write import Report, write_report

__all__ = ["Report", "write_report"]
