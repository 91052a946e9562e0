"""``python -m fmen``, which is what ``torchrun -m fmen`` starts."""

from fmen.cli.main import main

if __name__ == "__main__":
    main()
