"The command line where `dmsil` itself is not on the path: `python -m dmsil train`."
from .cli import main

if __name__ == "__main__":
    main()
