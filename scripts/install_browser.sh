#!/usr/bin/env bash
# Installs Chromium on Debian, for the tests that look at the HTML pages as a reader does. Does nothing if there is one.
set -euo pipefail

if command -v chromium chromium-browser >/dev/null; then
    echo "A Chromium is installed already."
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Installing a browser needs root, run: sudo bash $0" >&2
    exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
