"""The parts of tests/clients, which describes them and starts this file."""

import contextlib
import csv
import http.server
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import requests
import yaml

BINARY = os.environ["TOKEN_SERVICE_BINARY"]
PG_BIN = pathlib.Path(os.environ["TOKEN_SERVICE_PG_BIN"])
VENV_BIN = pathlib.Path(sys.executable).parent
SEED = int(os.environ.get("TOKEN_SERVICE_SEED", "1"))
CLIENTS = int(os.environ.get("TOKEN_SERVICE_CLIENTS", "1000"))
# The default proxy_read_timeout of nginx is 60 s.
SILENCE = float(os.environ.get("TOKEN_SERVICE_SILENCE", "65"))
TIMEOUT = 30
ENDED = {"completed", "stopped", "interrupted"}
STATUSES = ["stored", "rejected", "failed", "unknown", "not_attempted"]


class Failure(Exception):
    """A check that does not hold."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, message, limit=60):
    """Polls `condition` until it returns a true value, and returns that value."""
    until = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        expect(time.monotonic() < until, f"timeout: {message}")
        time.sleep(0.05)


def stop(process, limit=30):
    """Sends SIGTERM, waits, and returns the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failure(f"{process.args[0]} ignores SIGTERM for {limit} s") from None


# Servers


class Postgres:
    """A throwaway server on a free port of loopback."""

    def __init__(self, folder):
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        account = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        data = folder / "postgres"
        data.mkdir(mode=0o700)
        if account:
            shutil.chown(data, "postgres", "postgres")
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/", **account}
        init = [PG_BIN / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(init, check=True, **options)
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        server = [PG_BIN / "postgres", "-D", data, "-p", str(self.port), *arguments]
        self.process = subprocess.Popen(server, **options)
        ready = [PG_BIN / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL starts")

    def url(self, database="postgres"):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def query(self, sql, database="postgres"):
        psql = [PG_BIN / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", self.url(database)]
        output = subprocess.run(psql, input=sql, check=True, capture_output=True, text=True).stdout
        return output.splitlines()

    def create(self, database):
        """Creates a database with an empty table, and returns the name of the database."""
        self.query(f"CREATE DATABASE {database}")
        self.query(
            "CREATE TABLE secret_tokens (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " data text NOT NULL CHECK (data NOT LIKE '%-%'))",
            database,
        )
        return database

    def stop(self):
        # SIGINT is a fast shutdown, which ends the sessions.
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


class Source:
    """A token source that answers requests for `held` tokens only once its gate is open."""

    def __init__(self, held):
        self.gate = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler(held))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/tokens"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handler(self, held):
        gate = self.gate

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                size = int(parse_qs(urlsplit(self.path).query)["size"][0])
                if size == held:
                    gate.wait()
                body = "".join(f"{random.getrandbits(96):024x}\n" for _ in range(size)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def close(self):
        self.gate.set()
        self.server.shutdown()


class Service:
    """A running `token_service serve`."""

    def __init__(self, folder, source, database_url, *args, env=None):
        self.folder, self.args = folder, args
        self.env = {"PATH": os.environ["PATH"], "TOKEN_HOST": source, "DATABASE_URL": database_url}
        self.env.update(env or {})
        self.start()

    def start(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with open(self.folder / "service.log", "ab") as log:
            command = [BINARY, "serve", "--listen", f"127.0.0.1:{self.port}", *self.args]
            self.process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        token = self.env.get("TOKEN_SERVICE_SERVE_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}

        def ready():
            expect(self.process.poll() is None, f"the service does not start: {self.folder}/service.log")
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{self.url}/readyz", headers=headers, timeout=TIMEOUT).status_code == 200

        wait_until(ready, "the service is ready")

    def get(self, path, status=200, **options):
        answer = requests.get(self.url + path, timeout=TIMEOUT, **options)
        expect(answer.status_code == status, f"GET {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def post(self, path, status=200, **options):
        answer = requests.post(self.url + path, timeout=TIMEOUT, **options)
        expect(answer.status_code == status, f"POST {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def start_run(self, size):
        """Starts an asynchronous run, and returns its path."""
        return self.post(f"/v1/runs?size={size}", 202, headers={"Prefer": "respond-async"}).headers["Location"]

    def wait_for_end(self, path, limit=120):
        return wait_until(lambda: (run := self.get(path).json())["state"] in ENDED and run, f"{path} ends", limit)

    def stop(self):
        status = stop(self.process)
        expect(status == 0, f"the service exits with {status} after SIGTERM")


@contextlib.contextmanager
def running(service):
    """Stops a service at the end; after a failure its exit status does not matter."""
    try:
        yield service
    except BaseException:
        service.process.kill()
        service.process.wait()
        raise
    service.stop()


@contextlib.contextmanager
def demo_source():
    command = [BINARY, "demo-source", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        stop(process)


def lines_of(answer):
    """Iterates over the lines of a streamed answer as they arrive, as bytes without line ends."""
    buffer = b""
    for chunk in answer.iter_content(None):
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines
    expect(not buffer, f"the answer ends within a line: {buffer[:100]}")


def events_of(answer):
    """Iterates over server-sent events as (event, id, data)."""
    fields = {}
    for line in lines_of(answer):
        if not line:
            if "data" in fields:
                yield fields.get("event"), fields.get("id"), json.loads(fields["data"])
            fields = {}
        elif not line.startswith(b":"):
            name, _, value = line.decode().partition(": ")
            fields[name] = value


# Parts


def schemathesis(postgres, folder):
    """Schemathesis on /openapi.json, without and with a token."""
    # A stopped run can still be read. Without a token the service ignores Authorization.
    excluded = {"": "use_after_free,ignored_auth,missing_required_header,negative_data_rejection", "s3cret": "use_after_free"}
    # 410 (lines after the end) and 422 (a repeated key) depend on the state, which the schema cannot express.
    (folder / "schemathesis.toml").write_text(
        '[checks.positive_data_acceptance]\nexpected-statuses = ["2xx", "401", "403", "404", "409", "410", "422", "429"]\n'
    )
    results, failed = [], False
    for token, checks in excluded.items():
        name = "with a token" if token else "without a token"
        database = postgres.create("schemathesis_token" if token else "schemathesis")
        env = {"MAX_TOKENS": "200", **({"TOKEN_SERVICE_SERVE_TOKEN": token} if token else {})}
        place = folder / database
        place.mkdir()
        with demo_source() as source, running(Service(place, source, postgres.url(database), "--data", "data", env=env)) as service:
            command = [VENV_BIN / "schemathesis", "--config-file", folder / "schemathesis.toml", "run", f"{service.url}/openapi.json", "--no-color"]
            command += ["--checks", "all", "--exclude-checks", checks, "--max-examples", "25"]
            command += ["--seed", str(SEED), "--generation-database", "none", "--request-timeout", str(TIMEOUT)]
            command += ["--continue-on-failure", "--rate-limit", "auto"]
            command += ["--header", f"Authorization: Bearer {token}"] if token else []
            output = place / "schemathesis.log"
            with open(output, "wb") as log:
                status = subprocess.run(command, cwd=place, stdout=log, stderr=log, check=False, timeout=600).returncode
            text = output.read_text()
            cases = re.search(r"(\d+) generated", text)
            faults = re.findall(r"❌ (ST\d+ .*: \d+)$", text, re.M)
            failed |= status != 0
            count = cases[1] if cases else "?"
            results.append(f"{name} {count} cases" + (f", faults ({output}): {'; '.join(faults)}" if status else ", no fault"))
    expect(not failed, " | ".join(results))
    return "; ".join(results)


def client_requests(postgres, folder):
    """Streaming, resumption, events, idempotency and formats with Python's requests."""
    dice = random.Random(SEED)
    database = postgres.create("requests")
    held = Source(held=3)
    try:
        arguments = ["--data", "data", "--page-size", "5", "--fetch-concurrency", "1"]
        (folder / "held").mkdir()
        with running(Service(folder / "held", held.url, postgres.url(database), *arguments)) as service:
            check_streaming(service, held)
    finally:
        held.close()
    with demo_source() as source, running(Service(folder, source, postgres.url(database), "--data", "data")) as service:
        cuts, runs = check_resumption(service, dice)
        check_formats(service)
        check_idempotency(service)
        key = {"Idempotency-Key": "restart"}
        before = service.post("/v1/runs?size=7", headers=key)
        service.stop()
        service.start()
        after = service.post("/v1/runs?size=7", headers=key)
        expect(before.content == after.content, "a key is forgotten by a restart with --data")
    return f"{runs} runs resumed after {cuts} cuts; streaming, events, idempotency and 6 formats agree"


def check_streaming(service, source):
    with requests.post(f"{service.url}/v1/runs?size=8", stream=True, timeout=TIMEOUT) as answer:
        lines = lines_of(answer)
        first = [json.loads(next(lines)) for _ in range(5)]
        path = answer.headers["Location"]
        expect(service.get(path).json()["state"] == "running", "the first lines arrive after the run has ended")
        with requests.get(f"{service.url}{path}/events", stream=True, timeout=TIMEOUT) as stream:
            events = events_of(stream)
            event, _, data = next(events)
            expect(event == "progress" and data["state"] == "running", f"the first event is {event}: {data}")
            source.gate.set()
            event, _, data = list(events)[-1]
            expect(event == "summary" and data["summary"]["stored"] == 8, f"the last event is {event}: {data}")
        rest = [json.loads(line) for line in lines]
    expect(len(first) + len(rest) == 9 and rest[-1]["summary"]["stored"] == 8, f"the stream is {first + rest}")
    expect(rest[-1]["summary"] == service.get(path).json()["summary"] == data["summary"], "the summaries differ")


def check_resumption(service, dice):
    cuts = 0
    for _ in range(20):
        # Runs that have ended within one buffer are resumed as well as runs that go on.
        size = dice.choice([10, 1000, 20000])
        got, path = [], None
        while not got or b'"summary"' not in got[-1]:
            if path is None:
                answer = requests.post(f"{service.url}/v1/runs?size={size}", stream=True, timeout=TIMEOUT)
                path = answer.headers["Location"]
            else:
                cuts += 1
                answer = requests.get(f"{service.url}{path}/report?after={len(got)}", stream=True, timeout=TIMEOUT)
            expect(answer.status_code == 200, f"{answer.url}: {answer.status_code}")
            remaining = dice.randint(0, size // 3)
            with answer:
                for line in lines_of_cut(answer):
                    got.append(line)
                    remaining -= 1
                    if remaining < 0:
                        break
        whole = service.get(f"{path}/report").content.splitlines()
        expect(got == whole, f"{path}: {len(got)} resumed lines differ from {len(whole)} lines of the report")
        expect(len(whole) == size + 1, f"{path}: {len(whole)} lines for {size} tokens")
    return cuts, 20


def lines_of_cut(answer):
    """Iterates over the lines of an answer that the caller closes early."""
    buffer = b""
    for chunk in answer.iter_content(1024):
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines


def check_formats(service):
    path = service.post("/v1/runs?size=50").headers["Location"]
    report_lines = service.get(f"{path}/report").content.splitlines()
    *tokens, last = map(json.loads, report_lines)
    expected = [(token["token"], token["status"]) for token in tokens]

    def report(media_type):
        answer = service.get(f"{path}/report", headers={"Accept": media_type})
        kind = answer.headers["Content-Type"].split(";")[0]
        expect(kind == media_type, f"Accept: {media_type} gives {kind}")
        by_query = service.get(f"{path}/report?format={'text' if media_type == 'text/plain' else media_type.split('/')[1]}")
        expect(by_query.content == answer.content, f"{media_type}: Accept and `format` give different reports")
        return answer.content.decode()

    for kind, parse in [("application/json", json.loads), ("application/yaml", yaml.safe_load)]:
        document = parse(report(kind))
        got = [(token["token"], token["status"]) for token in document["tokens"]]
        expect(got == expected and document["summary"]["stored"] == last["summary"]["stored"], f"{kind} differs from ndjson")
    table = csv.DictReader(io.StringIO(report("text/csv")))
    # An apostrophe precedes a cell that a spreadsheet would take for a formula.
    rows = [(re.sub(r"^'(?=[-=+@])", "", row["token"]), row["status"]) for row in table]
    expect(rows == expected, "text/csv differs from ndjson")
    lines = [line.split() for line in report("text/plain").splitlines()]
    expect([(line[1], line[0]) for line in lines[:50]] == expected, "text/plain differs from ndjson")
    page = report("text/html")
    expect(all(token in page for token, _ in expected), "text/html lacks a token")
    service.get(f"{path}/report", 406, headers={"Accept": "image/png"})
    service.get(f"{path}/report?after=52", 410)


def check_idempotency(service):
    key = {"Idempotency-Key": "together"}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: service.post("/v1/runs?size=200", headers=key), range(16)))
    expect(len({answer.headers["Run-Id"] for answer in answers}) == 1, "simultaneous requests with one key start several runs")
    expect(len({answer.content for answer in answers}) == 1, "simultaneous requests with one key get different reports")
    problem = service.post("/v1/runs?size=201", 422, headers=key)
    expect(problem.headers["Content-Type"] == "application/problem+json", "422 without a problem document")


NGINX = """
pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{default}; location / {{ proxy_pass {url}; }} }}
    server {{ listen 127.0.0.1:{documented}; include {folder}/location; }}
    server {{ listen 127.0.0.1:{http2} http2; include {folder}/location; }}
}}
"""


@contextlib.contextmanager
def nginx(folder, url):
    """Yields three addresses: default settings, those of docs/service.md, and the latter with HTTP/2."""
    ports = {name: free_port() for name in ["default", "documented", "http2"]}
    document = pathlib.Path("docs/service.md").read_text()
    location = re.search(r"```nginx\n(.*?)```", document, re.S)[1].replace("http://127.0.0.1:8080", url)
    expect(url in location, "docs/service.md has no nginx location for the service")
    folder.chmod(0o755)
    (folder / "location").write_text(location)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, url=url, **ports))
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        wait_until(lambda: accepts(ports["http2"]), "nginx listens")
        yield addresses
    finally:
        stop(process)


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


def behind_nginx(postgres, folder):
    """Streams, events and a silent run through nginx, with HTTP/1.1 and HTTP/2."""
    (folder / "config.yaml").write_text("source: {timeout: 10m}\n")
    held = Source(held=3)
    arguments = ["--data", "data", "--page-size", "5", "--fetch-concurrency", "1", "--max-runs", "8"]
    arguments += ["--config", "config.yaml"]
    service = Service(folder, held.url, postgres.url(postgres.create("nginx")), *arguments)
    streams = {}
    with running(service), nginx(folder, service.url) as addresses:
        try:
            for name, address in addresses.items():
                for kind in ["run", "events"]:
                    target = f"{address}/v1/runs?size=8" if kind == "run" else f"{address}{path}/events"
                    stream = streams[name, kind] = Stream(target, name == "http2", "POST" if kind == "run" else "GET")
                    # The source is silent after five tokens, so everything before it must have passed nginx.
                    wanted, count = ('"token"', 5) if kind == "run" else ("event: progress", 1)
                    arrived = lambda: stream.body().count(wanted) >= count
                    wait_until(arrived, f"{kind} through nginx ({name}) before the run ends", 20)
                    if kind == "run":
                        path = stream.location()
            time.sleep(SILENCE)
        finally:
            held.gate.set()
            held.close()
        for stream in streams.values():
            stream.process.wait(TIMEOUT)
        for (name, kind), stream in streams.items():
            body = stream.body()
            end = '"summary":{' in body
            if (name, kind) == ("default", "run") and SILENCE > 60:
                expect(not end, "nginx's default time-out did not end the silent answer")
                got = body.splitlines()
                run = service.wait_for_end(stream.location())
                expect(run["stored"] == 8, f"the run of the ended answer: {run}")
                rest = requests.get(f"{addresses['default']}{stream.location()}/report?after={len(got)}", timeout=TIMEOUT)
                whole = service.get(f"{stream.location()}/report").text
                expect(body + rest.text == whole, "the ended answer cannot be resumed through nginx")
            else:
                expect(stream.process.returncode == 0 and end, f"{kind} through nginx ({name}) ends early: {body[-300:]}")
    return (
        f"lines and events arrive at once with HTTP/1.1 and HTTP/2; {SILENCE:.0f} s of silence survive with the documented "
        "proxy_read_timeout; with nginx's default the answer ends, its run completes, and its report resumes"
    )


class Stream:
    """A curl that writes an answer to files as it arrives."""

    def __init__(self, url, http2, method):
        self.files = pathlib.Path(tempfile.mkdtemp())
        command = ["curl", "-sS", "-N", "-X", method, "-D", self.files / "head", "-o", self.files / "body", url]
        command += ["--http2-prior-knowledge"] if http2 else []
        (self.files / "body").touch()
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def body(self):
        return (self.files / "body").read_text()

    def location(self):
        return re.search(r"^location: (\S+)", (self.files / "head").read_text(), re.M | re.I)[1]


def disconnects(postgres, folder):
    """Clients that disconnect at random moments while database connections are killed."""
    database = postgres.create("disconnects")
    arguments = ["--data", "data", "--max-runs", "16", "--queue", "64", "--patience", "60s"]
    with demo_source() as source, running(Service(folder, source, postgres.url(database), *arguments)) as service:
        ended, kills = threading.Event(), []
        killer = threading.Thread(target=kill_backends, args=(postgres, database, ended, kills))
        killer.start()
        try:
            with ThreadPoolExecutor(100) as pool:
                clients = list(pool.map(lambda number: client(service, number), range(CLIENTS)))
            listed = wait_until(lambda: (runs := service.get("/v1/runs").json()) and all_ended(runs) and runs, "all runs end", 300)
        finally:
            ended.set()
            killer.join()
        result = compare_with_table(postgres, database, service, clients, listed)
        service.stop()
        service.start()
        again = service.get("/v1/runs").json()
        expect(again == listed[:1000], "a restart changes the list of runs")
    refusals = sum(refused for _, _, refused in clients)
    cut = sum(cut for _, cut, _ in clients)
    return f"{CLIENTS} clients, {cut} disconnected, {refusals} refusals retried, {sum(kills)} backends killed; {result}"


def all_ended(runs):
    return all(run["state"] in ENDED for run in runs)


def kill_backends(postgres, database, ended, kills):
    dice = random.Random(SEED)
    sql = f"""SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
        WHERE datname = '{database}' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS victim"""
    while not ended.wait(dice.uniform(0, 0.2)):
        kills.append(int(postgres.query(sql)[0]))


def client(service, number):
    """Starts one run and disconnects at a random moment: returns (id, whether it disconnected, refusals)."""
    dice = random.Random(SEED * 1_000_003 + number)
    size, refused, run_id = dice.randint(1, 200), 0, None
    # The key repeats requests whose answer was lost, as docs/service.md recommends.
    headers = {"Idempotency-Key": f"client-{number}"}
    while True:
        try:
            # Times before the head of the answer and within its body.
            limit = dice.choice([0.05, 0.5, TIMEOUT]) if run_id is None else TIMEOUT
            answer = requests.post(f"{service.url}/v1/runs?size={size}", headers=headers, stream=True, timeout=(TIMEOUT, limit))
        except (requests.Timeout, requests.ConnectionError):
            run_id = run_id or ""
            continue
        with answer:
            if answer.status_code in (429, 503):
                refused += 1
                time.sleep(float(answer.headers.get("Retry-After", "1")) * dice.uniform(0.5, 1.5))
                continue
            if answer.status_code != 200:
                raise Failure(f"client {number}: {answer.status_code} {answer.text}")
            read, wanted = 0, dice.choice([0, dice.randint(0, size), size + 1])
            with contextlib.suppress(requests.ConnectionError):
                for _ in lines_of_cut(answer) if wanted else ():
                    read += 1
                    if read >= wanted:
                        break
            return answer.headers["Run-Id"], read <= size, refused


def compare_with_table(postgres, database, service, clients, listed):
    """Compares the outcome of each token with the table."""
    ids = {run_id for run_id, _, _ in clients}
    expect(len(ids) == CLIENTS, f"{CLIENTS} clients got {len(ids)} runs")
    expect({run["id"] for run in listed} == ids, f"{len(listed)} runs are listed, {len(ids)} were started")
    rows = postgres.query("SELECT data FROM secret_tokens", database)
    table = set(rows)
    expect(len(rows) == len(table), f"{len(rows) - len(table)} tokens are stored twice")
    totals = {status: sum(run[status] for run in listed) for status in STATUSES}
    reported, unknown_stored, seen = dict.fromkeys(STATUSES, 0), 0, set()
    for run in listed:
        *tokens, last = service.get(f"/v1/runs/{run['id']}/report").content.splitlines() or [b"{}"]
        expect("summary" in json.loads(last), f"the report has no summary, of the run {run}")
        expect(len(tokens) == run["received"], f"{run['id']}: {len(tokens)} of {run['received']} tokens are reported")
        for token in map(json.loads, tokens):
            name, status = token["token"], token["status"]
            expect(name not in seen, f"{name} is reported twice")
            seen.add(name)
            reported[status] += 1
            if status == "unknown":
                unknown_stored += name in table
            else:
                expect((name in table) == (status == "stored"), f"{name} of {run['id']} is {status}, and in the table: {name in table}")
    expect(reported == totals, f"the reports count {reported}, the list {totals}")
    expect(table <= seen, f"{len(table - seen)} rows are in no report")
    expect(totals["stored"] + unknown_stored == len(rows), f"{totals}, {unknown_stored} unknown stored, {len(rows)} rows")
    counts = ", ".join(f"{count} {status}" for status, count in totals.items())
    return f"{counts}; {len(rows)} rows = stored + {unknown_stored} of the unknown; none doubled"


def load(postgres, folder):
    """hey on the start of runs and on reads."""
    database = postgres.create("load")
    with demo_source() as source, running(Service(folder, source, postgres.url(database), "--data", "data")) as service:
        path = service.start_run(100)
        service.wait_for_end(path)
        results = []
        for method, target, count in [
            ("POST", "/v1/runs?size=5", 3000),
            ("GET", "/v1/runs", 500),
            ("GET", path, 5000),
            ("GET", f"{path}/report", 3000),
            ("GET", "/metrics", 2000),
        ]:
            command = ["hey", "-n", str(count), "-c", "50", "-t", str(TIMEOUT), "-m", method, service.url + target]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            codes = {int(code): int(number) for code, number in re.findall(r"\[(\d{3})\]\s+(\d+) responses", output)}
            name = f"{method} {target.replace(path, '/v1/runs/ID')}"
            expect("Error distribution" not in output, f"{name}: {output[output.find('Error'):]}")
            allowed = {200, 429} if method == "POST" else {200}
            expect(set(codes) <= allowed and sum(codes.values()) == count, f"{name}: {codes}")
            rate = re.search(r"Requests/sec:\s+([\d.]+)", output)[1]
            results.append(f"{name} {float(rate):.0f}/s {codes}")
        runs = service.get("/v1/runs").json()
        wait_until(lambda: all_ended(service.get("/v1/runs").json()), "all runs end")
        runs = service.get("/v1/runs").json()
        rows = int(postgres.query("SELECT count(*) FROM secret_tokens", database)[0])
        metrics = service.get("/metrics").text
        stored = int(float(re.search(r'^token_service_tokens_total{status="stored"} (\S+)$', metrics, re.M)[1]))
        expect(stored == rows, f"the metrics count {stored} stored tokens, the table has {rows} rows")
    return f"{'; '.join(results)}; {len(runs)} runs listed, {rows} rows = stored"


PARTS = {
    "schemathesis": schemathesis,
    "requests": client_requests,
    "nginx": behind_nginx,
    "disconnects": disconnects,
    "load": load,
}


def main():
    names = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"usage: tests/clients [PART...]; {unknown[0]} is not one of {', '.join(PARTS)}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clients-"))
    folder.chmod(0o755)  # the server runs as the user postgres
    tempfile.tempdir = str(folder)
    postgres = Postgres(folder)
    failed = []
    try:
        for name in names:
            (folder / name).mkdir()
            started = time.monotonic()
            try:
                result, sign = PARTS[name](postgres, folder / name), "ok    "
            except Exception as error:  # a part that fails must not hide the others
                kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
                result, sign = f"{kind}{error}", "FAILED"
                failed.append(name)
            print(f"{sign} {name} ({time.monotonic() - started:.0f} s): {result}", flush=True)
    finally:
        postgres.stop()
    print(f"{len(names) - len(failed)} of {len(names)} parts passed" + (f"; files: {folder}" if failed else ""))
    if failed:
        sys.exit(1)
    shutil.rmtree(folder)


main()
