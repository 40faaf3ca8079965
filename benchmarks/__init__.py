"""cnnjax beside other trainers, on the same machine at the same time; see README.md. The package never imports this."""
