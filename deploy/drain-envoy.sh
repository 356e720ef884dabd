#!/usr/bin/env bash
# End an Envoy without cutting calls: Kubernetes runs it before SIGTERM, which Envoy obeys at once.
#
#   drain-envoy.sh [SECONDS [ADMIN_PORT]]
#
# New connections go elsewhere (/ready returns 503), open ones are asked to (GOAWAY with the next
# answer), running calls go on for at most SECONDS. bash and /dev/tcp: the image has no curl.
set -euo pipefail
seconds=${1:-270}
port=${2:-9901}

ask() { # METHOD PATH: body of the admin endpoint's answer
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}

open_calls() {
  ask GET '/stats?filter=^http.calls.downstream_rq_active$' |
    sed -n 's/^http\.calls\.downstream_rq_active: \([0-9]*\).*/\1/p'
}

ask POST /healthcheck/fail >/dev/null
deadline=$((SECONDS + seconds))
# Whoever still asks the old address has a moment to hear of it.
sleep 2
while ((SECONDS < deadline)) && (($(open_calls) > 0)); do
  sleep 1
done
