import sys
from pathlib import Path

# Ranks find a task by its module's name, on the path that they get from the process of the tests.
sys.path.insert(0, str(Path(__file__).parent))
