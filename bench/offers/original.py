"""Asks the original's catalog library what bench/offers asks ours. Reads the questions as JSON
lists of arguments of Catalog.query from stdin, and prints JSON: seconds to load, seconds of each
query, the number of offers found, and the memory in MB that the catalog takes."""

import json
import resource
import sys
import time

from gpuhunt import Catalog


def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


questions = json.load(sys.stdin)
providers, repeat = questions["providers"], questions["repeat"]
before = rss()
start = time.perf_counter()
catalog = Catalog(auto_reload=False)
catalog.load()
out = {"load": time.perf_counter() - start, "memory": rss() - before, "queries": []}
for arguments in questions["queries"]:
    seconds, found = [], 0
    for _ in range(repeat):
        start = time.perf_counter()
        found = len(catalog.query(provider=providers, **arguments))
        seconds.append(time.perf_counter() - start)
    out["queries"].append({"seconds": seconds, "found": found})
json.dump(out, sys.stdout)
