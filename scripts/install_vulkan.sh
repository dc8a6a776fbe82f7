#!/usr/bin/env bash
# Installs Mesa's software drivers on Debian 12, to render without a GPU: Vulkan (lavapipe) for ManiSkill, OpenGL for
# dm_control.
# SAPIEN needs Mesa >= 24.3; Debian 12 itself has 22.3, its backports suite has a newer one.
# The suite is taken from wherever this machine takes Debian 12 itself. Does nothing if the driver is good already.
set -euo pipefail

needed=24.3

# Prints the version of an installed package, nothing for others.
version() {
    dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | awk '$1 == "installed" { print $2 }'
}

driver=$(version mesa-vulkan-drivers || true)
loader=$(version libvulkan1 || true)
opengl=$(version libegl1 || true)$(version libopengl0 || true)
if [ -n "$driver" ] && [ -n "$loader" ] && [ -n "$opengl" ] && dpkg --compare-versions "$driver" ge "$needed"; then
    echo "mesa-vulkan-drivers $driver is installed already."
    exit 0
fi

if ! grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
    echo "This is not Debian 12: install Mesa's Vulkan drivers >= $needed as your distribution does." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Installing a driver needs root, run: sudo bash $0" >&2
    exit 1
fi

# Prints "<archive URI> <keyring, if named>" of the first source that offers the suite bookworm.
archive() {
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v RS='' -F '\n' '{
            uri = key = suites = ""
            for (i = 1; i <= NF; i++) {
                split($i, word, " ")
                if (word[1] == "URIs:") uri = word[2]
                if (word[1] == "Signed-By:") key = word[2]
                if (word[1] == "Suites:") suites = $i " "
            }
            if (uri != "" && suites ~ / bookworm /) { print uri, key; exit }
        }' "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        # deb [signed-by=... arch=...] URI bookworm main
        awk '$1 == "deb" {
            key = ""
            if (match($0, /signed-by=[^] ]+/)) key = substr($0, RSTART + 10, RLENGTH - 10)
            sub(/\[[^]]*\]/, "")
            if ($3 == "bookworm") { print $2, key; exit }
        }' "$file"
    done
}

apt-get update -qq
if [[ "$(apt-cache madison mesa-vulkan-drivers)" != *bookworm-backports* ]]; then
    read -r uri key < <(archive) || true
    if [ -z "${uri:-}" ]; then
        echo "No apt source for Debian 12 was found in /etc/apt: add the suite bookworm-backports by hand." >&2
        exit 1
    fi
    {
        printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\n' "$uri"
        [ -z "${key:-}" ] || printf 'Signed-By: %s\n' "$key"
    } >/etc/apt/sources.list.d/bookworm-backports.sources
    apt-get update -qq
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -t bookworm-backports mesa-vulkan-drivers libvulkan1 \
    libegl1 libopengl0 libgl1-mesa-dri
