"""A real Redis with two replicas, and three real sentinels that make one of them the master when the master is gone."""

import hashlib
import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from tests.secure_redis import OPS, secure_server
from tests.workers import wait_until
from worker.local_redis import WITH_A_LIFELINE, find_server, free_port

MASTER_NAME = "gpner"
# After so long without an answer a sentinel takes the master for gone; two of the three must.
DOWN_AFTER_SECONDS = 1
# A new replica waits for no others before it is sent what there is.
PROMPT = "repl-diskless-sync-delay 0\n"
SENTINEL_CONFIGURATION = f"""\
sentinel monitor {MASTER_NAME} 127.0.0.1 {{master}} 2
sentinel down-after-milliseconds {MASTER_NAME} {1000 * DOWN_AFTER_SECONDS}
sentinel failover-timeout {MASTER_NAME} 10000
"""


class Server:
    """A Redis or a sentinel on a port of 127.0.0.1, during its block or until this process ends, however it ends.

    Args:
        folder: For its configuration, its log and its data.
        configuration: Further lines of its configuration.
        arguments: What stands behind the configuration on its command line.
        program: The Redis server to run; that of the tests unless given.
        user: Who the tests log in as.
        password: What it asks for.
    """

    def __init__(
        self,
        folder: Path,
        configuration: str,
        *arguments: str,
        program: str | None = None,
        user: str = "default",
        password: str = "",
    ) -> None:
        folder.mkdir()
        self.port = free_port()
        login = {"username": user, "password": password} if password else {}
        # Once more, because sentinels cut the connections of a server when they change what it is.
        self.client = Redis(port=self.port, protocol=2, socket_timeout=2, retry=Retry(NoBackoff(), 1), **login)
        self._program = program or find_server()
        self._log = folder / "log"
        self._file = folder / "redis.conf"
        self._file.write_text(f'port {self.port}\nbind 127.0.0.1\ndir {folder}\nsave ""\n{configuration}')
        self._arguments = arguments

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        command = [self._program, str(self._file), *self._arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", WITH_A_LIFELINE, "sh", *command], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        wait_until(self.answers, what=" ".join(command))
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe


class Guarded:
    """One master, two replicas, three sentinels, during its block.

    Args:
        folder: Where they keep what they know.
        configuration: Further lines of the configuration of the three servers.
        password: What the servers ask for; the sentinels ask for none.
        users: Whether the servers have the users of ops/redis, each with that password; needs `secure_server`.
    """

    def __init__(self, folder: Path, configuration: str = "", password: str = "", *, users: bool = False) -> None:
        self._folder = folder
        self._password = password
        login = f"requirepass {password}\nmasterauth {password}\n" if password else ""
        self._of_server = {"password": password}
        self._of_sentinel = f"sentinel auth-pass {MASTER_NAME} {password}\n" if password else ""
        if users:
            login = f"aclfile {_users_file(folder, password)}\nmasteruser replica\nmasterauth {password}\n"
            self._of_server |= {"user": "admin", "program": str(secure_server())}
            self._of_sentinel += f"sentinel auth-user {MASTER_NAME} sentinel\n"
        self._configuration = PROMPT + configuration + login
        self._running = ExitStack()

    def url(self, user: str = "") -> str:
        """The address that names the sentinels."""
        login = f"{user}:{quote(self._password, safe='')}@" if self._password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{MASTER_NAME}/0"

    def master(self) -> Server:
        """The server that the sentinels name."""
        _, port = self.sentinel.discover_master(MASTER_NAME)
        return next(server for server in self.servers if server.port == port)

    def wait_for_another_than(self, old: Server) -> Server:
        """The new master, once all sentinels name it and it takes writes."""
        wait_until(lambda: all(self._named_by(sentinel) != old.port for sentinel in self.sentinels), 30, "a failover")
        new = self.master()
        wait_until(lambda: new.client.info("replication")["role"] == "master", 30, "the new master")
        return new

    def __enter__(self) -> Self:
        enter = self._running.enter_context
        master = enter(Server(self._folder / "redis-0", self._configuration, **self._of_server))
        of_replica = f"replicaof 127.0.0.1 {master.port}\n{self._configuration}"
        replicas = [Server(self._folder / f"redis-{i}", of_replica, **self._of_server) for i in (1, 2)]
        self.servers = [master, *map(enter, replicas)]
        # The master counts replicas that have nothing yet, too.
        wait_until(lambda: all(map(_is_in_step, self.servers[1:])), 30, "two replicas in step")
        of_sentinel = SENTINEL_CONFIGURATION.format(master=master.port) + self._of_sentinel
        self.sentinels = [enter(Server(self._folder / f"sentinel-{i}", of_sentinel, "--sentinel")) for i in range(3)]
        self.sentinel = Sentinel([("127.0.0.1", sentinel.port) for sentinel in self.sentinels], socket_timeout=2)
        wait_until(lambda: all(map(_knows_all, self.sentinels)), 30, "sentinels that know each other")
        return self

    def __exit__(self, *error: object) -> None:
        self.sentinel.close()
        self._running.close()

    def _named_by(self, sentinel: Server) -> int:
        return int(sentinel.client.sentinel_get_master_addr_by_name(MASTER_NAME)[1])


def _users_file(folder: Path, password: str) -> Path:
    """The users that a service behind sentinels has, all with this password."""
    users = (OPS / "users.acl").read_text() + (OPS / "sentinel.acl").read_text()
    file = folder / "users.acl"
    file.write_text(re.sub("[A-Z]+_PASSWORD_SHA256", hashlib.sha256(password.encode()).hexdigest(), users))
    return file


def _is_in_step(replica: Server) -> bool:
    return bool(replica.client.info("replication")["master_link_status"] == "up")


def _knows_all(sentinel: Server) -> bool:
    state = sentinel.client.sentinel_master(MASTER_NAME)
    return state["num-slaves"] == 2 and state["num-other-sentinels"] == 2
