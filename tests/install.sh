#!/usr/bin/env bash
# Installs the Debian packages that tests use, each only if its program is missing. Where that is not allowed it says
# what would be installed; the tests then run with the programs that .venv carries. nginx is in no .venv: the tests
# that have one in front of two processes then have a client that goes round both, and say so in their names. Those of
# nginx itself, and those that need Prometheus, Alertmanager or their tools, are skipped without them, and pytest says
# so at its end; with CI=true they fail instead.
set -eu

# Of the package of Prometheus only the programs are wanted, and not its service, that service's user and a dozen
# packages for its pages. So they are taken out of the package, which no rights are needed for.
unpack_prometheus() {
    local folder
    folder=$(mktemp -d)
    echo "Unpacking the programs of the Debian package prometheus into .venv/bin"
    if (cd "$folder" && { apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }; }) \
        2>/dev/null &&
        dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -xC "$folder" ./usr/bin; then
        install -m 755 "$folder"/usr/bin/{prometheus,promtool} .venv/bin/
    else
        echo "apt could not download prometheus."
    fi
    rm -rf "$folder"
}
if ! { command -v prometheus && command -v promtool; } >/dev/null &&
    ! { [ -x .venv/bin/prometheus ] && [ -x .venv/bin/promtool ]; }; then
    if command -v apt-get >/dev/null && [ -d .venv/bin ]; then
        unpack_prometheus
    else
        echo "Not installed: prometheus and promtool, of the Debian package prometheus."
    fi
fi

packages=()
command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || packages+=(ffmpeg)
command -v curl >/dev/null || packages+=(curl)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || packages+=(nginx)
# Debian's Alertmanager does not start without its templates, which it looks for in one place.
command -v amtool >/dev/null && [ -e /usr/share/prometheus/alertmanager/default.tmpl ] ||
    packages+=(prometheus-alertmanager)
[ ${#packages[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    echo "Not installed: ${packages[*]}. The ones in .venv are used instead; on Debian, to test with the system's:"
    echo "  sudo apt-get install --no-install-recommends ${packages[*]}"
    exit 0
fi

# A package's postinst asks this file before it starts a service: the tests need the program, not a running server.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi

echo "Installing Debian packages for the tests: ${packages[*]}"
if ! { "${as_root[@]}" apt-get -qq update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null; }; then
    echo "apt could not install ${packages[*]}; the ones in .venv are used instead."
    exit 0
fi
# Nor at the next boot of the machine.
for service in redis-server nginx prometheus-alertmanager; do
    if [[ " ${packages[*]} " == *" $service "* ]] && command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl --quiet disable "$service.service" || true
    fi
done
