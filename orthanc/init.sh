#!/bin/sh
# The stack's first start: makes its secrets, once, gives each service those that it needs, and hands every volume to
# the user that works in it.
# Run as root by the compose service `init`; a later start finds the secrets and leaves them as they are.
set -eu
secrets=${SECRETS_DIR:-/run/secrets}
volumes=${VOLUMES_DIR:-/volumes}
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

# share SERVICE NAME...: a folder per service, which its group reads; every service runs as 1000:1000.
share() {
    folder=$volumes/secrets/$1
    mkdir -p "$folder"
    shift
    for name in "$@"; do
        cp "$secrets/$name" "$folder/.$name" && mv "$folder/.$name" "$folder/$name"
    done
    chgrp -R 1000 "$folder"
    chmod 750 "$folder"
}
share ours dicomweb_password database_url broker_url
share orthanc dicomweb_password orthanc_basic
share postgres postgres_password
share redis redis_password
share nginx orthanc_basic
# What an earlier version opened to all of them.
chmod 700 "$secrets"

for folder in "$volumes"/*; do
    case $folder in */secrets) ;; *) chown -R 1000:1000 "$folder" ;; esac
done
