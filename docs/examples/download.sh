#!/usr/bin/env bash
# Downloads one video through a running ytdl and says where the file is.
#
#   API=http://127.0.0.1:8000 YTDL_USER=admin YTDL_PASSWORD=… docs/examples/download.sh URL [QUALITY] [FORMAT]
#
# The file lands in the current folder, under the title of the video. Needs bash, curl and python3.
set -euo pipefail

api=${API:-http://127.0.0.1:8000}/api/v1
url=${1:?"usage: $0 URL [QUALITY] [FORMAT]"}
quality=${2:-best}
format=${3:-mp4}

# Prints a field of the JSON on standard input; dots go deeper.
field() {
    python3 -c '
import functools, json, sys
print(functools.reduce(lambda found, name: found[name], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"
}

# Makes a JSON object of NAME VALUE pairs, whatever characters are in them.
object() {
    python3 -c 'import json, sys; print(json.dumps(dict(zip(sys.argv[1::2], sys.argv[2::2]))))' "$@"
}

# Prints an answer. One that is an error becomes a sentence instead, and ends the script.
ask() {
    local answer code
    answer=$(curl --silent --show-error --write-out '\n%{http_code}' -H 'Content-Type: application/json' "$@") || exit 1
    code=${answer##*$'\n'} answer=${answer%$'\n'*}
    if [ "$code" -ge 400 ]; then
        field detail <<<"$answer" >&2 2>/dev/null || echo "The server answered with status $code." >&2
        exit 1
    fi
    echo "$answer"
}

login=$(object username "${YTDL_USER:-admin}" password "${YTDL_PASSWORD:?is not set}")
# Read from standard input, so that the password is in no list of processes.
tokens=$(ask "$api/auth/login" -d @- <<<"$login")
auth="Authorization: Bearer $(field access_token <<<"$tokens")"

new=$(ask "$api/downloads" -H "$auth" -d "$(object url "$url" quality "$quality" format "$format")")
id=$(field id <<<"$new")
echo "Download $id"

# The stream ends after the event "done".
curl --silent --show-error --fail --no-buffer "$api/downloads/$id/events" -H "$auth" |
    sed -un 's/^data: .*"stage":"\([a-z]*\)","percent":\([0-9.]*\).*/\1 \2 %/p'

ended=$(ask "$api/downloads/$id" -H "$auth")
status=$(field status <<<"$ended")
if [ "$status" != completed ]; then
    echo "The download is $status: $(field error.code <<<"$ended"). $(field error.message <<<"$ended")" >&2
    exit 1
fi
curl --silent --show-error --fail --remote-name --remote-header-name "$api/downloads/$id/file" -H "$auth"
echo "Saved as $(field file.name <<<"$ended")"
