"""graphjobs: the asynchronous PostgreSQL data layer of a scheduler of software supply-chain graph jobs."""
