#!/bin/sh
# Writes .env, or the file that is named: .env.example with a random password in every place for one.
set -eu
file=${1:-.env}
if [ -e "$file" ]; then
    echo "error: $file must not exist yet, it does; it holds the passwords of what runs with it" >&2
    exit 2
fi
umask 077
while IFS= read -r line; do
    case $line in
    *_PASSWORD=) echo "$line$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <"$(dirname "$0")/../.env.example" >"$file"
