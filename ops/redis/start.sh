#!/bin/sh
# Starts Redis in its container: the passwords of the environment go, as hashes, into a copy of users.acl in memory.
# Neither image nor volume ever holds one. TLS is off here: these connections stay on the network of one host.
set -eu
umask 077
acl=/run/redis/users.acl

mkdir -p /run/redis
sed "s/gpner:/${GPNER_NAMESPACE:-gpner:}/g" /usr/local/etc/redis/users.acl >"$acl"
# shellcheck disable=SC2013  # names of users are single words
for user in $(grep -o '[A-Z]*_PASSWORD_SHA256' "$acl" | sed 's/_PASSWORD_SHA256//'); do
    eval "password=\${${user}_PASSWORD:-}"
    if [ -z "$password" ]; then
        echo "error: ${user}_PASSWORD must be set, is not; compare .env with .env.example" >&2
        exit 2
    fi
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    sed -i "s/${user}_PASSWORD_SHA256/$hash/" "$acl"
    unset "${user}_PASSWORD"
done

# The folder may have come back from a backup as the superuser's.
chown -R redis /run/redis /data
exec setpriv --reuid=redis --regid=redis --clear-groups \
    redis-server /usr/local/etc/redis/redis.conf --port 6379 --tls-port 0 --aclfile "$acl" \
    --maxmemory "$REDIS_MAXMEMORY"
