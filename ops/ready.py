"""What the worker's `/readyz` says, for the health check of its container: one line, exit code 0 if it is ready."""

import http.client
import os
import sys


def main() -> int:
    """Ask the worker of this container."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["GPNER_METRICS_PORT"]), timeout=10)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        sys.stdout.write(answer.read().decode())
    except OSError as error:
        sys.stdout.write(f"no answer on GPNER_METRICS_PORT={connection.port}: {error}\n")
        return 1
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
