#!/bin/sh
# The stack's first start: makes its secrets, once, and hands every volume to the user that works in it.
# Run as root by the compose service `init`; a later start finds the secrets and leaves them as they are.
set -eu
secrets=${SECRETS_DIR:-/run/secrets}
umask 027

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
# write NAME VALUE: whole or not at all
write() { printf '%s' "$2" > "$secrets/.$1" && mv "$secrets/.$1" "$secrets/$1"; }

mkdir -p "$secrets"
[ -e "$secrets/dicomweb_password" ] || write dicomweb_password "$(random)"
[ -e "$secrets/postgres_password" ] || write postgres_password "$(random)"
[ -e "$secrets/redis_password" ] || write redis_password "$(random)"
write database_url "postgresql+psycopg://metscope:$(cat "$secrets/postgres_password")@postgres/metscope"
write broker_url "redis://:$(cat "$secrets/redis_password")@redis:6379/0"
write orthanc_basic "$(printf 'metscope:%s' "$(cat "$secrets/dicomweb_password")" | base64 | tr -d '\n')"

# Every service runs as 1000:1000 and reads, the group, what root wrote.
chgrp -R 1000 "$secrets"
for folder in /volumes/*; do
    if [ -d "$folder" ]; then chown -R 1000:1000 "$folder"; fi
done
