"""PostgreSQL as graphjobs uses it: engines, the executor, migrations, the embedded server; knows no job."""
