"""A Redis with TLS and the users of ops/redis, for the tests: a CA of its own, random passwords, gone at the end."""

import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from tests.workers import ROOT, wait_until
from worker.local_redis import free_port
from worker.settings import Settings

OPS = ROOT / "ops" / "redis"
CURVE = "ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
# Every character that has a meaning in an address, and one beyond ASCII.
SPECIAL = "p@ss:w/o?r#d%41&ö;[] "


@cache
def secure_server() -> str | None:
    """A Redis server of this machine that has TLS and the users of version 7, if there is one."""
    for folder in [*os.environ["PATH"].split(os.pathsep), *os.defpath.split(os.pathsep)]:
        server = shutil.which("redis-server", path=folder)
        if server is None:
            continue
        version = subprocess.run([server, "--version"], capture_output=True, text=True).stdout
        if int(re.findall(r"v=(\d+)", version)[0]) < 7:
            continue
        # Told to listen nowhere it ends at once, after it has read its options.
        said = subprocess.run([server, "--port", "0", "--tls-port", "0"], capture_output=True, text=True).stdout
        if "Configured to not listen anywhere" in said:
            return server
    return None


class SecureRedis:
    """The server of ops/redis/redis.conf, on 127.0.0.1 and a free port, as long as its `with` block lasts.

    Attributes:
        token: What all passwords end with.
        passwords: Of each user in users.acl.
        ca: The certificate to trust.
        other_ca: One that signed nothing here.
    """

    def __init__(self, folder: Path, namespace: str = "gpner:") -> None:
        self.folder = folder
        self.namespace = namespace
        self.port = free_port()
        self.users = re.findall(r"^user (\w+) on", (OPS / "users.acl").read_text(), re.MULTILINE)
        self.token = f"x{secrets.token_hex(8)}"
        self.passwords = {user: f"{user}{SPECIAL}{self.token}" for user in self.users}
        self.ca = make_authority(folder / "ca")
        self.other_ca = make_authority(folder / "other")
        self._certificate = sign(folder / "redis", self.ca)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, user: str, *, password: str | None = None, ca: Path | None = None, host: str = "127.0.0.1") -> str:
        secret = quote(self.passwords[user] if password is None else password, safe="")
        return f"rediss://{user}:{secret}@{host}:{self.port}/0?ssl_ca_certs={ca or self.ca}"

    def connect(self, user: str) -> Redis:
        return Redis.from_url(self.url(user), protocol=2)

    def start(self) -> None:
        acl = (OPS / "users.acl").read_text().replace("gpner:", self.namespace)
        for user, password in self.passwords.items():
            acl = acl.replace(f"{user.upper()}_PASSWORD_SHA256", hashlib.sha256(password.encode()).hexdigest())
        (self.folder / "users.acl").write_text(acl)
        options = {
            "tls-port": self.port,
            "bind": "127.0.0.1 127.0.0.2",
            "unixsocket": self.folder / "socket",
            "dir": self.folder,
            "aclfile": self.folder / "users.acl",
            "tls-cert-file": self._certificate,
            "tls-key-file": self._certificate.with_suffix(".key"),
            "tls-ca-cert-file": self.ca,
        }
        configuration = (OPS / "redis.conf").read_text()
        for name, value in options.items():
            configuration = re.sub(rf"^{name} .*\n", "", configuration, flags=re.MULTILINE) + f"{name} {value}\n"
        (self.folder / "redis.conf").write_text(configuration)
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(secure_server()), str(self.folder / "redis.conf")], stdout=log, stderr=log
            )
        with self.connect("admin") as admin:
            wait_until(lambda: self._answers(admin))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def refusals(self) -> list[str]:
        """Everything that a user tried without a right to it, and forget it."""
        with self.connect("admin") as admin:
            found = [
                f"{row['username']}: {row['reason']} {row['object']} {row['context']}" for row in admin.acl_log(100)
            ]
            admin.acl_log_reset()
        return found

    def leaked(self, text: str) -> bool:
        """Whether a text holds a part of a password."""
        return self.token in text or SPECIAL in text or quote(SPECIAL, safe="") in text

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self, admin: Redis) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            return bool(admin.ping())
        except RedisError:
            return False


def run(settings: Settings, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module as a program, as the user of these settings."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "GPNER_REDIS_URL": settings.redis_url.get_secret_value(),
        "GPNER_NAMESPACE": settings.namespace,
        **environment,
    }
    return subprocess.run([sys.executable, "-m", *command], env=variables, capture_output=True, text=True, timeout=30)


def make_authority(stem: Path) -> Path:
    """Make a CA; its certificate, with the key beside it."""
    certificate = stem.with_suffix(".crt")
    _openssl(f"req -x509 -newkey {CURVE} -keyout {stem}.key -out {certificate} -days 2 -subj /CN=test-{stem.name}")
    return certificate


def sign(stem: Path, ca: Path) -> Path:
    """Make a certificate for 127.0.0.1 and localhost; its key lies beside it."""
    stem.with_suffix(".ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    _openssl(f"req -newkey {CURVE} -keyout {stem}.key -out {stem}.csr -subj /CN=localhost")
    _openssl(
        f"x509 -req -in {stem}.csr -CA {ca} -CAkey {ca.with_suffix('.key')} -CAcreateserial "
        f"-out {stem}.crt -days 2 -extfile {stem}.ext"
    )
    return stem.with_suffix(".crt")


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)
