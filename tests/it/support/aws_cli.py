"""The AWS CLI, many times in one process: its arguments as a JSON list a line on stdin; its exit code and output as JSON on stdout.

To start it takes a second of a processor, and an attacker of a test has a hundred things to put.
"""

import contextlib
import io
import json
import sys

from awscli.clidriver import create_clidriver

driver = create_clidriver()
for line in sys.stdin:
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = driver.main(json.loads(line))
        said.flush()
    print(json.dumps({"code": code, "said": said.buffer.getvalue().decode()}), flush=True)
