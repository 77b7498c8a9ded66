"""Prove both demo bundles in a real MONAI Label server (stock `monaibundle` app), on 127.0.0.1 and without network.

Needs what prepare.py wrote. Run with the Python of an environment that has the `label` extra.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
import steps
from steps import CLASSIFIER, PROMPTED, StepError, check, read_json, say, write_json

# MONAI Label tells a model's kind from its folder's name, and viewers offer clicks for "deepgrow" only.
CLICKED = f"deepgrow_{PROMPTED}"
START_LIMIT = 300.0
TRAIN_LIMIT = 900.0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.absolute()
    case = read_json(work / "case.json")
    app, studies = _make_app(work), _make_studies(work, case)
    with _server(app, studies, work / "logs" / "label-server.log") as url:
        _infos(url)
        expected = read_json(work / "reference" / "probabilities.json")
        steps.check_probabilities(_classify(url, case), expected, where="Label, classifier")
        _click(url, work, case["volume"])
        _train(url, case, app / "model" / CLASSIFIER)
        after = _classify(url, case)
        check(abs(sum(after.values()) - 1) < 1e-4, f"Label answers with the newly trained model: {after}")


def _make_app(work: Path) -> Path:
    """The stock app, copied out of the package, with both bundles in its model folder."""
    apps = work / "label" / "apps"
    shutil.rmtree(apps, ignore_errors=True)
    apps.mkdir(parents=True)
    command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
    steps.run([*command, "--output", str(apps)], log=work / "logs" / "label-app.log", cwd=work, env=steps.OFFLINE)
    app = apps / "monaibundle"
    for name, folder in ((CLASSIFIER, CLASSIFIER), (PROMPTED, CLICKED)):
        shutil.copytree(work / "bundles" / name, app / "model" / folder)
    return app


def _make_studies(work: Path, case: dict[str, Any]) -> Path:
    """A folder of images as MONAI Label wants it: flat, no labels yet."""
    studies = work / "label" / "studies"
    shutil.rmtree(studies, ignore_errors=True)
    studies.mkdir(parents=True)
    shutil.copy(case["volume"]["path"], studies / f"{case['volume']['id']}.nii.gz")
    for radiograph in case["radiographs"]:
        shutil.copy(radiograph["path"], studies / f"{radiograph['id']}{Path(radiograph['path']).suffix}")
    return studies


@contextmanager
def _server(app: Path, studies: Path, log: Path) -> Iterator[str]:
    """A MONAI Label server that is stopped, with all its children, whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)),
        *("--conf", "models", f"{CLASSIFIER},{CLICKED}", "--conf", "zoo_source", "local", "--conf", "sam2", "false"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        # A working directory of its own: the server writes logs, and a training its MLflow database, where it starts.
        process = subprocess.Popen(
            command,
            cwd=studies.parent,
            env={**os.environ, **steps.OFFLINE},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url
        except StepError as error:
            raise StepError(f"{error}\n{log} ends with:\n{steps.tail(log)}") from error
        finally:
            _stop(process)
    say("the server is stopped")


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_LIMIT:
        if process.poll() is not None:
            msg = f"the server ended with {process.returncode} while it started; see {log}"
            raise StepError(msg)
        try:
            if requests.get(f"{url}/info/", timeout=30).ok:
                break
        except requests.ConnectionError:
            time.sleep(1)
    else:
        msg = f"the server did not answer within {START_LIMIT:.0f} s; see {log}"
        raise StepError(msg)
    say(f"the server answers at {url} after {time.monotonic() - started:.0f} s")
    owners = psutil.Process(process.pid).net_connections()
    hosts = {connection.laddr.ip for connection in owners if connection.status == psutil.CONN_LISTEN}
    check(hosts == {"127.0.0.1"}, "it listens on 127.0.0.1 only", hosts)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, a training that still runs included."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=20)


def _infos(url: str) -> None:
    info = requests.get(f"{url}/info/", timeout=60).json()
    kinds = {name: info["models"][name]["type"] for name in (CLASSIFIER, CLICKED) if name in info["models"]}
    check(kinds == {CLASSIFIER: "classification", CLICKED: "deepgrow"}, "the app offers both bundles", kinds)
    check(CLASSIFIER in info["trainers"], "the app offers to train the classifier", list(info["trainers"]))


def _answer(response: requests.Response) -> requests.Response:
    if not response.ok:
        msg = f"{response.request.method} {response.url} answered {response.status_code}: {response.text[:500]}"
        raise StepError(msg)
    return response


def _classify(url: str, case: dict[str, Any]) -> dict[str, float]:
    query = {"image": case["radiographs"][0]["id"], "output": "json"}
    answer = _answer(requests.post(f"{url}/infer/{CLASSIFIER}", params=query, data={"params": "{}"}, timeout=300))
    return {entry["label"]: entry["score"] for entry in answer.json()["prediction"]}


def _click(url: str, work: Path, volume: dict[str, Any]) -> None:
    """One click as 3D Slicer and OHIF send it; the answer goes to WORK/label/mask.nii.gz."""
    params = '{"foreground": [%s], "background": [], "result_extension": ".nii.gz", "result_dtype": "uint8"}'
    answer = _answer(
        requests.post(
            f"{url}/infer/{CLICKED}",
            params={"image": volume["id"], "output": "image"},
            data={"params": params % volume["click"]},
            timeout=300,
        )
    )
    mask = work / "label" / "mask.nii.gz"
    mask.write_bytes(answer.content)
    steps.check_mask(mask, volume, where="Label, one click")
    steps.check_same_mask(mask, work / "reference" / "mask.nii.gz", what="Label's mask and the bundle's own")


def _train(url: str, case: dict[str, Any], bundle: Path) -> None:
    """Submit a class for every radiograph, as a viewer does, then train one epoch in the server's own process."""
    for radiograph in case["radiographs"]:
        label = bundle.parent / "label.json"
        write_json(label, {"label": radiograph["class"]})
        with label.open("rb") as file:
            query = {"image": radiograph["id"], "tag": "final"}
            _answer(requests.put(f"{url}/datastore/label", params=query, files={"label": file}, timeout=60))
        label.unlink()
    say(f"submitted a class for each of {len(case['radiographs'])} radiographs")
    before = _digest(bundle / "models" / "model.pt")
    request = {"max_epochs": 1, "val_split": 0.25, "multi_gpu": False}
    _answer(requests.post(f"{url}/train/{CLASSIFIER}", json=request, timeout=60))
    started = time.monotonic()
    while True:
        task = _answer(requests.get(f"{url}/train/", timeout=60)).json()
        if task["status"] not in {"SUBMITTED", "RUNNING"}:
            break
        if time.monotonic() - started > TRAIN_LIMIT:
            msg = f"the training did not end within {TRAIN_LIMIT:.0f} s"
            raise StepError(msg)
        time.sleep(2)
    details = "\n".join(task.get("details", []))
    check(task["status"] == "DONE", f"one epoch through /train ended ({time.monotonic() - started:.0f} s)", details)
    check(_digest(bundle / "models" / "model.pt") != before, "the training wrote a new model.pt")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    steps.run_main(main)
