"""``python -m chronorun``: the same as the ``chronorun`` command."""

from chronorun.cli.main import main

if __name__ == "__main__":
    main()
