"""``fcos-train`` with other words on each rank: [words, words]; with "machines", each on a machine of its own."""

import json
import os
import sys

words = json.loads(sys.argv[1])
rank = os.environ["RANK"]
if "machines" in sys.argv:  # one rank each
    os.environ.update(GROUP_RANK=rank, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", GLOO_SOCKET_IFNAME="lo")

from fcos_train.cli.main import main

sys.exit(main(words[int(rank)]))
