"""`python -m fercore` is the command line; launchers of processes (torchrun) start it so."""

from fercore.cli import main

if __name__ == "__main__":
    main()
