#!/bin/sh
# What callers and Envoy know each other by, made once: an authority of this installation alone, Envoy's certificate, one
# for a caller, and a token. Files that are there are kept. For a certificate of your own see docker/README.md.
#
#   make.sh FOLDER NAME ...     the names that callers may reach Envoy by
set -eu
folder="$1"
shift
umask 027
mkdir -p "$folder/authority" "$folder/envoy" "$folder/servers" "$folder/caller"
names="$(for name in "$@"; do printf 'DNS:%s,' "$name"; done)IP:127.0.0.1"

signed() { # FILE NAME EXTENSIONS: a key and a certificate for ten years at FILE.key and FILE.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$folder/authority/ca.pem" -CAkey "$folder/authority/ca.key" -CAcreateserial \
        -days 3650 -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}

[ -e "$folder/authority/ca.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj "/CN=rejection authority" -keyout "$folder/authority/ca.key" -out "$folder/authority/ca.pem"
[ -e "$folder/envoy/server.pem" ] || signed "$folder/envoy/server" rejection "subjectAltName=$names"
[ -e "$folder/caller/client.pem" ] || signed "$folder/caller/client" caller "extendedKeyUsage=clientAuth"
[ -e "$folder/servers/tokens" ] || openssl rand -hex 32 >"$folder/servers/tokens"
cp "$folder/authority/ca.pem" "$folder/envoy/client-ca.pem"
cp "$folder/authority/ca.pem" "$folder/servers/tokens" "$folder/caller/"
