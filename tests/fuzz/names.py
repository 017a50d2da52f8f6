"""The names of all targets; apart from them, since atheris has to be there before they are imported."""

NAMES = ("run-ids", "tickets", "cursors", "page-tokens", "store-urls", "jobs", "resume-file", "spool", "handlers")
