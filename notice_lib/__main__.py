"""`python -m notice_lib` is `notice`; accelerate launch needs a module."""

from .cli import main

if __name__ == "__main__":
    main()
