"""Drives a server by the published Python API: plan, apply, attach, logs, stop."""

import sys
import time

from dstack.api import Client, Resources, Task

url, token = sys.argv[1:]
client = Client.from_config(project_name="main", server_url=url, user_token=token)


def submit(name, command):
    task = Task(name=name, image="job:1", commands=[command], resources=Resources(cpu="1..", memory="0..", disk="1GB.."))
    plan = client.runs.get_run_plan(configuration=task)
    print(name, "offers", plan.job_plans[0].total_offers, flush=True)
    return client.runs.apply_plan(plan)


def until_finished(run):
    while not run.status.is_finished():
        time.sleep(0.2)
        run.refresh()
    print(run.name, run.status.value, flush=True)


run = submit("api-short", "echo said by a job")
run.attach()
for chunk in run.logs():
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
run.detach()
until_finished(run)
print("stored:", b"".join(run.logs(diagnose=False)).count(b"said by a job"), flush=True)

run = submit("api-long", "while true; do echo tick; sleep 0.2; done")
run.attach()
for chunk in run.logs():
    if b"tick" in chunk:
        print("ticks", flush=True)
        break
run.stop(abort=True)
run.detach()
until_finished(run)
print("listed", sorted(r.name for r in client.runs.list(all=True) if r.name.startswith("api-")), flush=True)
